#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# kernel.sh SERIES
#
# Downloads and unpacks the newest kernel of a series (6.1, 6.12) out of
# Debian 12's archive and its security updates, and prints the directory that
# has boot/vmlinuz-VERSION, boot/config-VERSION and lib/modules/VERSION of it.
# Nothing is installed.  The directory's name is the kernel's VERSION.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
. "$here/../debian.sh"

series=${1:?usage: kernel.sh SERIES}

debian_update bookworm
# 6.1.0-56-amd64, 6.12.117+deb12-amd64; neither -cloud- (no 9p) nor -rt-.
package=$(debian_apt bookworm apt-cache pkgnames "linux-image-$series." |
          grep -E "^linux-image-${series//./\\.}\.[0-9.+-]+(deb12-)?amd64$" |
          sort -V | tail -n 1)
if [ -z "$package" ]; then
    echo "$0: Debian 12's archive has no kernel $series" >&2
    exit 1
fi

version=${package#linux-image-}
dir=$DEBIAN_DIR/kernels/$version
if [ ! -d "$dir" ]; then
    deb=$(debian_fetch bookworm "$package")
    rm -rf "$dir.new"
    mkdir -p "$dir.new"
    dpkg-deb -x "$deb" "$dir.new"
    depmod -b "$dir.new" "$version"
    mv "$dir.new" "$dir"
fi
echo "$dir"
