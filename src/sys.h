// sys.h -- what files of /proc and /sys, and commands, say in one line.
#ifndef LONGCA_SYS_H
#define LONGCA_SYS_H

#include <stdbool.h>
#include <stddef.h>

// First line of a file without the newline; false, and an empty buf, when there is none.
bool sys_line(const char *path, char *buf, size_t size);
// Value of the first line "key : value" of a file such as /proc/cpuinfo; empty when there is none.
void sys_field(const char *path, const char *key, char *buf, size_t size);
// The same of a line "key: 12 kB" of /proc/meminfo or a process's status; NaN when there is none.
double sys_field_bytes(const char *path, const char *key);
// First line that a command prints; empty when it fails.
void sys_command(const char *command, char *buf, size_t size);

#endif
