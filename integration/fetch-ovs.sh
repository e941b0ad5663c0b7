#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# fetch-ovs.sh VERSION
#
# Downloads the source of Open vSwitch as Debian packages it (package
# openvswitch-source, its patches applied and "configure" made) and prints the
# path of a tar archive of it with one top directory, "openvswitch".  Nothing
# is installed and the machine's own apt sources are left alone (debian.sh).
#
# VERSION: 3.1 (Debian 12, bookworm), 3.5 (13, trixie), 4.0 (sid).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
. "$here/debian.sh"

case ${1-} in
3.1) suite=bookworm ;;
3.5) suite=trixie ;;
4.0) suite=sid ;;
*)
    echo "usage: $0 3.1|3.5|4.0" >&2
    exit 2
    ;;
esac

deb=$(debian_fetch "$suite" openvswitch-source)
version=$(basename "$deb" | cut -d_ -f2)
case $version in
"$1".*) ;;
*)
    echo "$0: Debian's $suite has openvswitch $version now, not $1" >&2
    exit 1
    ;;
esac

tarball=$DEBIAN_DIR/openvswitch-$version.tar
if [ ! -f "$tarball" ]; then
    work=$(mktemp -d "$DEBIAN_DIR/unpack.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    dpkg-deb -x "$deb" "$work"
    src=$work/usr/src
    # Until 3.1 the package holds an archive, later the files themselves.
    if [ -f "$src/openvswitch/openvswitch.tar.gz" ]; then
        gunzip -c "$src/openvswitch/openvswitch.tar.gz" > "$tarball.new"
    else
        tar -C "$src" -cf "$tarball.new" openvswitch
    fi
    mv "$tarball.new" "$tarball"
fi
echo "$tarball"
