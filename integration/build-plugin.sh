#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# build-plugin.sh OVS_SRC OVS_BUILD OUTDIR: builds OUTDIR/libdpif_bpf.so, the
# plugin that gives OVS the datapath type "bpf", and OUTDIR/libovsnl_bpf.so,
# its transport alone, out of OVS_SRC and its build with shared libraries.

set -euo pipefail

die()
{
    echo "build-plugin.sh: $*" >&2
    exit 1
}

[ $# -eq 3 ] || die "usage: build-plugin.sh OVS_SRC OVS_BUILD OUTDIR"
here=$(cd "$(dirname "$0")" && pwd)/plugin
src=$(cd "$1" && pwd) || die "no directory $1"
obj=$(cd "$2" && pwd) || die "no directory $2"
mkdir -p "$3"
out=$(cd "$3" && pwd)
work=$out/plugin
cc=${CC:-gcc}

[ -f "$src/lib/dpif-netlink.c" ] || die "$src is no source tree of OVS"
[ -f "$obj/config.h" ] || die "$obj is no build directory of OVS"
[ -f "$obj/lib/.libs/libopenvswitch.so" ] ||
    die "$obj was not built with --enable-shared"

# plugin.c waits in these for the main thread.
for name in run wait; do
    grep -q "if_notifier_$name();" "$src/vswitchd/bridge.c" ||
        die "ovs-vswitchd of $src does not call if_notifier_$name();" \
            "this OVS is not supported yet"
done

rm -rf "$work"
mkdir -p "$work"

# replace FILE OLD NEW: OLD, a basic regular expression matching a whole line,
# becomes NEW.  It must be there exactly once: another OVS may be different.
replace()
{
    local count
    count=$(grep -c -- "^$2\$" "$1" || true)
    [ "$count" -eq 1 ] ||
        die "lib/$(basename "$1" .inc).c of $src is not as expected:" \
            "'$2' is there $count times; this OVS is not supported yet"
    sed -i "s|^$2\$|$3|" "$1"
}

cp "$src/lib/dpif-netlink.c" "$work/dpif-netlink.inc"
cp "$src/lib/netlink-conntrack.c" "$work/netlink-conntrack.inc"
chmod u+w "$work"/*.inc
f=$work/dpif-netlink.inc
replace "$f" 'VLOG_DEFINE_THIS_MODULE(dpif_netlink);' \
             'VLOG_DEFINE_THIS_MODULE(dpif_bpf);'
replace "$f" '    "system",' '    "bpf",'
replace "$f" '    dpif_netlink_enumerate,' '    dpif_bpf_enumerate,'
replace "$f" '    dpif_netlink_flow_dump_destroy,' \
             '    dpif_bpf_flow_dump_destroy,'
replace "$f" '    dpif_netlink_operate,' '    dpif_bpf_operate,'
replace "$f" '    dpif_netlink_port_poll,' '    dpif_bpf_port_poll,'
replace "$f" '    dpif_netlink_get_datapath_version,\(.*\)' \
             '    dpif_bpf_get_datapath_version,\1'
for name in set_maxconns get_maxconns get_nconns; do
    replace "$f" "    NULL, */\* ct_$name \*/" "    dpif_bpf_ct_$name,"
done
replace "$f" '\(.*\)"dpif-netlink/dispatch-mode"\(.*\)' \
             '\1"dpif-bpf/dispatch-mode"\2'
replace "$work/netlink-conntrack.inc" \
        'VLOG_DEFINE_THIS_MODULE(netlink_conntrack);' \
        'VLOG_DEFINE_THIS_MODULE(bpf_conntrack);'

flags=(-std=gnu11 -O2 -g -fPIC -fvisibility=hidden -DHAVE_CONFIG_H
       -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -pthread)
paths=(-I"$obj" -I"$src/include" -I"$obj/include" -I"$src/lib" -I"$obj/lib"
       -I"$src" -I"$work" -I"$here")
warn=(-Wall -Wextra -Wno-unused-parameter -Wno-sign-compare)
if [ -f "$src/lib/netdev-offload.h" ]; then
    flags+=(-DHAVE_NETDEV_OFFLOAD_H)
fi

# OVS's own text is not ours to be warned about.
"$cc" "${flags[@]}" "${paths[@]}" -w -c -o "$work/dpif.o" "$here/dpif.c"
"$cc" "${flags[@]}" "${paths[@]}" -w -c -o "$work/conntrack.o" \
      "$here/conntrack.c"
for name in known plugin; do
    "$cc" "${flags[@]}" "${paths[@]}" "${warn[@]}" -c -o "$work/$name.o" \
          "$here/$name.c"
done
"$cc" -std=gnu11 -O2 -g -fPIC -fvisibility=hidden -pthread -Wall -Wextra \
      -c -o "$work/transport.o" "$here/transport.c"
"$cc" -shared -pthread -Wl,-z,now -Wl,-soname,libovsnl_bpf.so \
      -o "$work/libovsnl_bpf.so" "$work/transport.o" -ldl
"$cc" -shared -pthread -Wl,-z,now -Wl,-soname,libdpif_bpf.so \
      -o "$work/libdpif_bpf.so" \
      "$work"/{dpif,conntrack,known,plugin,transport}.o \
      -L"$obj/lib/.libs" -lopenvswitch -ldl

# The second instances must not lean on the first.
leaks=$(nm -D --undefined-only "$work/libdpif_bpf.so" |
        grep -oE ' (nl_ct_|dpif_netlink_)[a-z_]+' |
        grep -v ' dpif_netlink_rtnl_' || true)
[ -z "$leaks" ] || die "the plugin would call OVS's own:$leaks"
# Nor may the plugin stand in for anything of OVS's that it does not mean to.
extra=$(nm -D --defined-only "$work/libdpif_bpf.so" | awk '{ print $3 }' |
        grep -vxE 'socket|close|connect|getsockname|setsockopt|epoll_ctl' |
        grep -vxE '(send|recv)(msg)?|__recv_chk|dpif_netlink_vport_get' |
        grep -vxE 'if_notifier_(run|wait)' || true)
[ -z "$extra" ] || die "the plugin defines: ${extra//$'\n'/ }"

mv "$work/libovsnl_bpf.so" "$work/libdpif_bpf.so" "$out"
