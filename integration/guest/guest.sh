#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# guest.sh [OPTION...] COMMAND [ARGUMENT...]
#
# Runs COMMAND as root in a machine that qemu emulates in software, under
# Debian's kernel and with this machine's root file system: read only, under
# an overlay in memory, so that nothing that it writes stays, except under
# /mnt/share.  The guest has no network.  COMMAND starts in the current
# directory; a COMMAND without arguments is a line for bash.  Its output comes
# here, and its exit status is this script's; 124 when time was up, 125 when
# the guest came to no end.
#
#   -k SERIES   kernel, of Debian 12's archive: 6.1 (default) or 6.12
#   -o DIR      the host's side of /mnt/share (default: a temporary directory,
#               deleted when COMMAND succeeds); afterwards it has console.log
#               and dmesg
#   -t SECONDS  time limit, host's clock (default 3600)
#   -i SHIFT    the guest's clock counts instructions, 2^SHIFT ns each, instead
#               of following the host's: a slow or loaded host does not show
#   -m MB, -s CPUS   the guest's size (default 3072, and 2 or with -i 1)
#   -e NAME=VALUE    environment of COMMAND (repeatable)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
. "$here/../debian.sh"
series=6.1 share='' limit=3600 shift_ns='' memory=3072 cpus='' environment=()

usage()
{
    sed -n '/^# guest.sh/,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

while getopts +k:o:t:i:m:s:e: option; do
    case $option in
    k) series=$OPTARG ;;
    o) share=$OPTARG ;;
    t) limit=$OPTARG ;;
    i) shift_ns=$OPTARG ;;
    m) memory=$OPTARG ;;
    s) cpus=$OPTARG ;;
    e) environment+=("$OPTARG") ;;
    *) usage ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || usage

debian_install qemu-system-x86_64:qemu-system-x86 busybox:busybox-static \
    cpio:cpio depmod:kmod xz:xz-utils zstd:zstd

kernel=$("$here/kernel.sh" "$series")
version=$(basename "$kernel")
initrd=$kernel/initrd
if [ ! -f "$initrd" ] || [ "$here/stage1.sh" -nt "$initrd" ] ||
   [ "$here/mkinitrd.sh" -nt "$initrd" ]; then
    "$here/mkinitrd.sh" "$kernel" "$initrd"
fi

keep=yes
if [ -z "$share" ]; then
    share=$(mktemp -d "${TMPDIR:-/tmp}/ovs-bpf-guest.XXXXXX")
    keep=''
fi
mkdir -p "$share"
share=$(cd "$share" && pwd)
rm -f "$share/status"
cp "$here/stage2.sh" "$share/stage2.sh"
date +%s > "$share/date"
{
    for pair in "${environment[@]}"; do
        printf 'export %s=%q\n' "${pair%%=*}" "${pair#*=}"
    done
    printf 'cd %q || exit\n' "$PWD"
    if [ $# = 1 ]; then
        printf '%s\n' "$1"
    else
        printf '%q ' "$@"
        echo
    fi
} > "$share/command"

if [ -n "$shift_ns" ]; then
    timing=(-accel "tcg,thread=single,tb-size=512"
            -icount "shift=$shift_ns,sleep=on")
    cpus=${cpus:-1}
else
    timing=(-accel "tcg,thread=multi,tb-size=512")
    cpus=${cpus:-2}
fi

# nine NAME PATH [OPTION]: the arguments of a directory shared by 9p.
nine()
{
    echo "-fsdev local,id=$1,path=$2,security_model=${3:-passthrough,readonly=on}"
    echo "-device virtio-9p-pci,fsdev=$1,mount_tag=$1"
}

status=0
# shellcheck disable=SC2046
timeout --foreground "$limit" qemu-system-x86_64 \
    -machine q35 -cpu max "${timing[@]}" -smp "$cpus" -m "$memory" \
    -nodefaults -display none -nic none -no-reboot -device virtio-rng-pci \
    -kernel "$kernel/boot/vmlinuz-$version" -initrd "$initrd" \
    -append "console=ttyS0 loglevel=5 panic=-1 mitigations=off nokaslr
             random.trust_cpu=on tsc=reliable nowatchdog" \
    -serial "file:$share/console.log" \
    -chardev stdio,id=output,signal=off -serial chardev:output \
    $(nine root / passthrough,readonly=on,multidevs=remap) \
    $(nine kernel "$kernel") $(nine share "$share" none) \
    < /dev/null || status=$?

if [ "$status" = 124 ]; then
    echo "guest.sh: ended after $limit s; see $share" >&2
    exit 124
elif [ ! -f "$share/status" ]; then
    echo "guest.sh: the guest came to no end; see $share/console.log" >&2
    exit 125
fi
status=$(cat "$share/status")
if [ -z "$keep" ]; then
    if [ "$status" = 0 ]; then
        rm -rf "$share"
    else
        echo "guest.sh: status $status; see $share" >&2
    fi
fi
exit "$status"
