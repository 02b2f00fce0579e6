# embed.awk -- a CUDA source and all that it includes by "..." as one C string, for NVRTC:
#   awk -v name=flex_source -f embed.awk kernels/flex.cuh > flex_source.c
# Each file once, in order of inclusion; #line keeps places right in the compiler's messages. System
# headers are dropped (NVRTC has none); "predicate" stays: it is given at run time.
BEGIN {
  printf "extern const char %s[];\nconst char %s[] =\n", name, name
  embed(ARGV[1])
  print "    ;"
  exit
}

function say(line) {
  gsub(/["\\]/, "\\\\&", line)
  printf "    \"%s\\n\"\n", line
}

# path without its "x/.." parts
function plain(path) {
  while (sub(/[^\/.][^\/]*\/\.\.\//, "", path))
    ;
  return path
}

function embed(path,    line, n, part, folder) {
  if (path in seen)
    return
  seen[path] = 1
  folder = path
  sub(/[^\/]*$/, "", folder)
  say("#line 1 \"" path "\"")
  while ((n = (getline line < path)) > 0) {
    count[path]++
    if (line ~ /^#include </)
      line = ""
    if (line ~ /^#include "/ && line !~ /"predicate"/) {
      split(line, part, "\"")
      embed(plain(folder part[2]))
      line = "#line " (count[path] + 1) " \"" path "\""
    }
    say(line)
  }
  if (n < 0) {
    print "embed.awk: " path " cannot be read" > "/dev/stderr"
    exit 1
  }
  close(path)
}
