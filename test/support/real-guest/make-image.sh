#!/bin/sh
# Makes OUT, the root of the test guest for its kernel to unpack, from programs and modules of a Debian tree.
#   make-image.sh TREE OUT
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tree=$1 out=$2
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
cd "$root"
mkdir bin dev proc sys run modules
mknod dev/console c 5 1

for program in busybox perl; do
  cp "$tree/usr/bin/$program" bin/
  for library in $(chroot "$tree" ldd "/usr/bin/$program" | grep -o '/[^ ]*'); do
    mkdir -p ".${library%/*}"
    cp -L "$tree$library" ".$library"
  done
done
for applet in sh mount cat insmod hostname ip udhcpc sleep reboot kill echo; do ln -s busybox "bin/$applet"; done
install -m 755 "$here/init" init
install -m 755 "$here/dhcp-event" "$here/service.pl" bin/

for module in failover net_failover virtio_net; do # each after what it needs
  find "$tree/opt/kernel" -name "$module.ko.xz" -exec busybox xzcat {} + >"modules/$module.ko"
  echo "$module" >>modules/order
done
# Not compressed: nothing to unpack for a slow processor.
find . | busybox cpio -o -H newc 2>/dev/null >"$out"
