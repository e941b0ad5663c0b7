#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# mkshim.sh [DIR]: makes DIR (build/shim) what bcc takes for a kernel source
# tree, out of linux-libc-dev alone, so that no headers of the running kernel
# are needed.  bcc (0.26) adds the include directories that a kernel build has
# and includes <linux/kconfig.h>, <linux/types.h> and the like before the
# program; only the user API ones among them exist outside a kernel tree.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
dir=${1-$top/build/shim}
machine=$(uname -m)
case $machine in
x86_64) arch=x86 ;;
aarch64) arch=arm64 ;;
*) arch=$machine ;;
esac
api=/usr/include
if [ ! -d "$api/$machine-linux-gnu/asm" ]; then
    echo "mkshim.sh: linux-libc-dev is not installed" >&2
    exit 1
fi

new=$dir.new
rm -rf "$new"
mkdir -p "$new/include/linux" "$new/include/uapi/linux" \
         "$new/arch/$arch/include/asm" "$new/arch/$arch/include/uapi"

# The user API, where a kernel tree has it.
for path in "$api"/linux/*; do
    ln -s "$path" "$new/include/uapi/linux/"
done
ln -s "$api/asm-generic" "$new/include/uapi/asm-generic"
ln -s "$api/$machine-linux-gnu/asm" "$new/arch/$arch/include/uapi/asm"

# bcc brings a linux/bpf.h of its own, under the kernel's guard: not twice.
rm "$new/include/uapi/linux/bpf.h"
cat > "$new/include/uapi/linux/bpf.h" <<END
#ifndef _UAPI__LINUX_BPF_H__
#include "$api/linux/bpf.h"
#endif
END

# The kernel's own headers, as far as bcc's preamble uses them.
cat > "$new/include/linux/kconfig.h" <<END
#ifndef SHIM_KCONFIG_H
#define SHIM_KCONFIG_H
#define CONFIG_64BIT 1
#define CONFIG_BPF_SYSCALL 1
#endif
END
cat > "$new/include/linux/types.h" <<END
#ifndef SHIM_TYPES_H
#define SHIM_TYPES_H
#include <uapi/linux/types.h>
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s8 s8;
typedef __s16 s16;
typedef __s32 s32;
typedef __s64 s64;
typedef __SIZE_TYPE__ size_t;
typedef __PTRDIFF_TYPE__ ptrdiff_t;
typedef __UINTPTR_TYPE__ uintptr_t;
typedef _Bool bool;
#define true 1
#define false 0
#ifndef NULL
#define NULL ((void *) 0)
#endif
#endif
END
cat > "$new/include/linux/log2.h" <<END
#ifndef SHIM_LOG2_H
#define SHIM_LOG2_H
#define roundup_pow_of_two(N) \\
	((N) < 2 ? 1UL : 1UL << (64 - __builtin_clzl((N) - 1UL)))
#endif
END
cat > "$new/include/linux/version.h" <<END
#include <uapi/linux/version.h>
END
cat > "$new/arch/$arch/include/asm/page.h" <<END
#ifndef PAGE_SIZE
#define PAGE_SIZE 4096UL
#endif
END

rm -rf "$dir"
mv "$new" "$dir"
