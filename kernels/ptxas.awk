# ptxas.awk -- `nvcc -Xptxas -v` as a table, one kernel a line (names mangled; pipe through c++filt).
BEGIN { print "#arch registers stack_bytes spill_bytes smem_bytes kernel" }
/Compiling entry function/ {
  split($0, part, "'")
  name = part[2]
  arch = part[4]
}
/bytes stack frame/ {
  stack = spill = 0
  for (i = 1; i <= NF; i++) {
    if ($(i + 2) == "stack") stack = $i
    if ($(i + 2) == "spill") spill += $i
  }
}
/Used [0-9]+ registers/ {
  smem = 0
  for (i = 1; i <= NF; i++) {
    if ($(i + 1) ~ /^registers/) registers = $i
    if ($(i + 2) ~ /^smem/) smem = $i
  }
  if (name) print arch, registers, stack, spill, smem, name
  name = ""
}
