#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# mkinitrd.sh KERNEL_DIR OUTPUT
#
# Makes the guest's first file system: busybox, the modules that a root over
# 9p under an overlay needs, and stage1.sh as /init.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
kernel=$1 output=$2
version=$(basename "$kernel")

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree"/{bin,proc,sys,dev,modules,lower,upper,root}

install -m 755 "$(command -v busybox)" "$tree/bin/busybox"
install -m 755 "$here/stage1.sh" "$tree/init"

# In the order in which modprobe would insert them, each once.
for module in virtio_pci virtio_rng 9pnet_virtio 9p overlay; do
    modprobe -d "$kernel" -S "$version" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' |
while read -r file; do
    name=$(basename "$file")
    name=${name%%.ko*}.ko
    case $file in
    *.xz) xz -dc "$file" > "$tree/modules/$name" ;;
    *.zst) zstd -qdc "$file" > "$tree/modules/$name" ;;
    *) cp "$file" "$tree/modules/$name" ;;
    esac
    echo "$name" >> "$tree/modules/order"
done

(cd "$tree" && find . | cpio --quiet -o -H newc) | gzip -1 > "$output.new"
mv "$output.new" "$output"
