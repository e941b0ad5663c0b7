#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# private.sh COMMAND [ARGUMENT...]
#
# Runs COMMAND in network, mount and process namespaces of its own, with a
# fresh /run (named network namespaces, daemons' sockets), /sys and bpffs, so
# that OVS's system tests, which work in "the" network namespace under fixed
# names, can run beside anything else.  What they leave behind, processes
# included, ends with COMMAND.
set -euo pipefail

if [ "${OVS_TESTS_PRIVATE-}" != inside ]; then
    OVS_TESTS_PRIVATE=inside exec unshare --net --mount --pid --fork \
        --kill-child --mount-proc --propagation private "$0" "$@"
fi
unset OVS_TESTS_PRIVATE

mount -t tmpfs -o mode=755 run /run
mkdir -p /run/netns /run/lock /run/openvswitch
mount -t sysfs sysfs /sys
mount -t bpf -o mode=700 bpf /sys/fs/bpf
if [ -d /sys/kernel/tracing ]; then
    mount -t tracefs tracefs /sys/kernel/tracing
fi
ip link set lo up

# Test directories keep paths short: Unix sockets' names end at 107 bytes.
if [ -n "${OVS_TESTS_DIR-}" ]; then
    mkdir /run/ovs-tests
    mount --bind "$OVS_TESTS_DIR" /run/ovs-tests
    cd /run/ovs-tests
fi
exec "$@"
