#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=dash
#
# First process of the guest, on the initial file system: mounts the host's
# root file system (9p, read only) below an overlay in memory, the kernel's
# modules and the shared directory, and goes on to stage2.sh there.
/bin/busybox --install -s /bin
export PATH=/bin

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev

while read -r module; do
    insmod "/modules/$module" || echo "stage1: no module $module"
done < /modules/order

nine=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o "$nine,ro,cache=loose" root /lower || echo "stage1: no root"
mount -t tmpfs -o size=80% tmpfs /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work \
    overlay /root || echo "stage1: no overlay"

mkdir -p /root/mnt/share /root/mnt/kernel
mount -t 9p -o "$nine" share /root/mnt/share || echo "stage1: no share"
mount -t 9p -o "$nine,ro,cache=loose" kernel /root/mnt/kernel ||
    echo "stage1: no kernel"

mount -o move /proc /root/proc
mount -o move /sys /root/sys
mount -o move /dev /root/dev
exec switch_root /root /bin/bash /mnt/share/stage2.sh
