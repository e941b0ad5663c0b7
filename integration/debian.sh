# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Packages out of any suite of Debian's archive, downloaded and unpacked
# without a change to the machine: apt's configuration, indexes and cache are
# in a directory of their own, nothing is installed, and the machine's sources
# are neither read nor written.  Sourced by fetch-ovs.sh and guest/kernel.sh.
#
# Environment: OVS_BPF_MIRROR, OVS_BPF_SECURITY_MIRROR (Debian's by default).

DEBIAN_DIR=${DEBIAN_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build/debian}

# debian_sources SUITE: the one-line sources of a suite and its security
# updates.
debian_sources()
{
    local mirror=${OVS_BPF_MIRROR:-http://deb.debian.org/debian}
    local security=${OVS_BPF_SECURITY_MIRROR:-http://deb.debian.org/debian-security}
    local keys=/usr/share/keyrings/debian-archive-keyring.gpg

    echo "deb [arch=amd64 signed-by=$keys] $mirror $1 main"
    case $1 in
    sid | *-backports) ;;
    *) echo "deb [arch=amd64 signed-by=$keys] $security $1-security main" ;;
    esac
}

# debian_apt SUITE PROGRAM ARG...: apt-get or apt-cache with that suite's
# configuration alone.
debian_apt()
{
    local dir=$DEBIAN_DIR/$1 prog=$2
    shift 2

    "$prog" -qq \
        -o Dir::Etc::sourcelist="$dir/sources.list" \
        -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferences=/dev/null \
        -o Dir::Etc::preferencesparts=/dev/null \
        -o Dir::State="$dir/state" \
        -o Dir::State::status="$dir/state/status" \
        -o Dir::Cache="$dir/cache" \
        -o Acquire::Languages=none \
        -o APT::Architecture=amd64 \
        -o APT::Architectures=amd64 \
        -o APT::Sandbox::User=root \
        "$@"
}

# debian_update SUITE: brings the suite's index up to date, once a day.
debian_update()
{
    local dir=$DEBIAN_DIR/$1

    if [ -n "$(find "$dir/stamp" -mtime -1 2>/dev/null)" ]; then
        return 0
    fi
    echo "debian.sh: reading the index of $1" >&2
    mkdir -p "$dir/state/lists/partial" "$dir/cache/archives/partial"
    : > "$dir/state/status"
    debian_sources "$1" > "$dir/sources.list"
    debian_apt "$1" apt-get update && touch "$dir/stamp"
}

# debian_fetch SUITE PACKAGE: downloads the newest version (skipped when it is
# there already) and prints the .deb's path.
debian_fetch()
{
    local dir=$DEBIAN_DIR/$1/debs version deb

    debian_update "$1" || return
    version=$(debian_apt "$1" apt-cache show --no-all-versions "$2" |
              sed -n 's/^Version: //p' | head -n 1)
    if [ -z "$version" ]; then
        echo "debian.sh: $1 has no package $2" >&2
        return 1
    fi
    mkdir -p "$dir"
    # apt writes the epoch's colon as %3a.
    deb=$(find "$dir" -name "$2_${version//:/%3a}_*.deb" | head -n 1)
    if [ -z "$deb" ]; then
        echo "debian.sh: downloading $2 $version of $1" >&2
        (cd "$dir" && debian_apt "$1" apt-get download "$2") >&2 || return
        deb=$(find "$dir" -name "$2_${version//:/%3a}_*.deb" | head -n 1)
    fi
    echo "$deb"
}

# debian_install PROGRAM:PACKAGE...: installs, on the machine and from its own
# sources, the packages of those programs (absolute paths, or names looked up
# in PATH) that are not there.
debian_install()
{
    local pair wanted=()

    for pair; do
        if ! command -v "${pair%%:*}" > /dev/null &&
           ! [ -e "${pair%%:*}" ]; then
            wanted+=("${pair#*:}")
        fi
    done
    if [ ${#wanted[@]} -eq 0 ]; then
        return 0
    fi
    echo "debian.sh: installing ${wanted[*]}" >&2
    debian_install_now "${wanted[@]}" || {
        apt-get -qq update >&2 && debian_install_now "${wanted[@]}"
    }
}

debian_install_now()
{
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y install \
        --no-install-recommends "$@" < /dev/null > /dev/null
}
