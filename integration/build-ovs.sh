#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# build-ovs.sh [--print-build|--print-plugin] [SOURCE]
#
# Builds Open vSwitch with shared libraries, and the plugin for it, into
# build/ovs-VERSION/{src,build,libdpif_bpf.so}.  What is there and usable is
# left alone.  SOURCE is 3.1 (default), 3.5 or 4.0: as Debian packages it; or
# a tar archive; or a source tree with its configure made, which is not
# written to.  Progress goes to stderr, compilers' output to
# build/ovs-VERSION/build.log.  --print-… prints the path of the build
# directory or of the plugin.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/.." && pwd)
. "$here/progress.sh"
debian_tar=/usr/src/openvswitch/openvswitch.tar.gz
options=(--enable-shared --prefix=/usr --localstatedir=/var --sysconfdir=/etc
         --enable-ssl "CFLAGS=-O2 -g1" PYTHON3=/usr/bin/python3)

die()
{
    echo "build-ovs.sh: $*" >&2
    exit 1
}

# version_of < CONFIGURE: the version that a configure script is of.
version_of()
{
    sed -n "s/^PACKAGE_VERSION='\(.*\)'/\1/p" | head -n 1
}

print='' source=3.1
for word; do
    case $word in
    --print-build | --print-plugin) print=${word#--print-} ;;
    -*) sed -n '/^# build-ovs/,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    *) source=$word ;;
    esac
done

# A version is found among what is built, or its archive is.
dir=''
case $source in
[0-9].[0-9])
    for ok in "$top/build/ovs-$source".*/ok; do
        if [ -f "$ok" ]; then
            dir=$(dirname "$ok")
        fi
    done
    if [ -z "$dir" ]; then
        if [ "$source" = 3.1 ] && [ -f "$debian_tar" ]; then
            source=$debian_tar
        else
            source=$("$here/fetch-ovs.sh" "$source")
        fi
    fi
    ;;
esac
if [ -z "$dir" ]; then
    if [ -d "$source" ]; then
        source=$(cd "$source" && pwd)
        [ -f "$source/configure" ] || die "$source has no configure"
        version=$(version_of < "$source/configure")
    elif [ -f "$source" ]; then
        source=$(realpath "$source")
        version=$(tar -xOf "$source" --wildcards '*/configure' | version_of)
    else
        die "no such version, archive or directory: $source"
    fi
    [ -n "$version" ] || die "$source is no source of Open vSwitch"
    dir=$top/build/ovs-$version
fi

# unpack: $dir/src, a directory or a link to one.
unpack()
{
    rm -rf "$dir/src" "$dir/src.new"
    if [ -d "$source" ]; then
        ln -s "$source" "$dir/src"
        return
    fi
    mkdir "$dir/src.new"
    tar -C "$dir/src.new" --strip-components=1 -xf "$source"
    mv "$dir/src.new" "$dir/src"
}

build()
{
    local steps

    echo "      configuring Open vSwitch $(basename "$dir" | cut -d- -f2-)" >&2
    rm -rf "$dir/build"
    mkdir "$dir/build"
    cd "$dir/build"
    "$dir/src/configure" "${options[@]}" > "$dir/build.log" 2>&1 ||
        { tail -n 20 "$dir/build.log" >&2
          die "configure failed, see $dir/build.log"; }
    steps=$({ make -n V=0 2>/dev/null || true; } |
            grep -cE 'echo "  (CC|CCLD|GEN) ' || true)
    progress "compiling Open vSwitch" "$dir/build.log" '^  (CC|CCLD|GEN) ' \
        "$steps" make -j"$(nproc)" V=0 ||
        { grep -E 'error:|Error ' "$dir/build.log" | head -n 20 >&2
          die "make failed, see $dir/build.log"; }
    cd "$top"
}

mkdir -p "$dir"
exec 9> "$dir/lock"
flock 9
if [ ! -f "$dir/ok" ] || [ ! -f "$dir/build/lib/.libs/libopenvswitch.so" ]
then
    rm -f "$dir/ok"
    unpack
    build
    touch "$dir/ok"
fi

plugin=$dir/libdpif_bpf.so
if [ ! -f "$plugin" ] || [ -n "$(find "$here/plugin" "$here/build-plugin.sh" \
        "$dir/ok" -newer "$plugin" -print -quit)" ]; then
    "$here/build-plugin.sh" "$dir/src" "$dir/build" "$dir"
fi
case $print in
build) echo "$dir/build" ;;
plugin) echo "$plugin" ;;
esac
