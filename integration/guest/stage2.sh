#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# First process of the guest on the overlay of the host's root: mounts what a
# booted machine has, runs /mnt/share/command, leaves its exit status in
# /mnt/share/status and powers off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8 TERM=dumb
# A provider that is emulated is slow, which is not to be taken for hung.
export DPIF_BPF_REPLY_MS=30000 DPIF_BPF_WAIT_MS=30000

version=$(uname -r)
mkdir -p /dev/pts /dev/shm
ln -sfn /proc/self/fd /dev/fd  # as udev does: bash's <(…) wants it
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mkdir -p /run/lock /run/netns /run/openvswitch
mount -t bpf bpf /sys/fs/bpf
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
mount -t cgroup2 cgroup2 /sys/fs/cgroup

# The kernel's modules and its configuration, where a host has them.
mkdir -p /lib/modules /boot
mount --bind /mnt/kernel/lib/modules /lib/modules
cp "/mnt/kernel/boot/config-$version" /boot/

hostname guest
ip link set lo up
modprobe tun
sysctl -qw kernel.printk='4 4 1 7'
date -s "@$(cat /mnt/share/date)" > /dev/null

# The second serial line carries the command's output, and nothing else.
stty -F /dev/ttyS1 raw -echo
setsid bash /mnt/share/command < /dev/null > /dev/ttyS1 2>&1
echo $? > /mnt/share/status
dmesg > /mnt/share/dmesg
sync
echo o > /proc/sysrq-trigger
sleep 60
