# Launches and dynamic shared memory as C++ (emu.h).
s/<<</ % emu::config(/g
s/>>>\(/)(/g
s/extern __shared__ (__align__\([0-9]+\) )?([A-Za-z_0-9]+) ([A-Za-z_0-9]+)\[\];/\2 *const \3 = static_cast<\2 *>(emu::dynamic_shared());/
