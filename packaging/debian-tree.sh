#!/bin/sh
# Makes a tree of a newer Debian for the tests: libvirt with the nftables backend, QEMU, Docker, firewalld, ufw, and Podman
# with the base image of the tests' container. It installs nothing on this machine; the tests run the programs by chroot, in
# their own namespaces. The tree stays in KVMNATD_TEST_CACHE (default /var/cache/kvmnatd-test). Prints the tree's folder.
set -eu

SUITE=trixie
PACKAGES="libvirt-daemon-system libvirt-daemon-driver-network libvirt-daemon-driver-qemu libvirt-daemon-config-network
  libvirt-clients qemu-system-x86 seabios iptables nftables dnsmasq-base conntrack iproute2 procps busybox udhcpc socat
  python3-minimal dbus docker.io firewalld ufw podman crun"

# dpkg need not wait for the disk: a tree that is half made when the machine fails has no stamp, and is made again.
export DPKG_FORCE=unsafe-io

cache=${KVMNATD_TEST_CACHE:-/var/cache/kvmnatd-test}
tree=$cache/$SUITE
stamp=$tree/.kvmnatd-packages

up_to_date() { [ "$(cat "$stamp" 2>/dev/null)" = "$PACKAGES" ]; }

mirror() { # the mirror of this machine's own packages
  found=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1)
  [ -n "$found" ] || {
    apt-get update -q >&2
    found=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1)
  }
  echo "$found"
}

build() {
  rm -rf "$tree" "$tree.new"
  from=$(mirror)
  debootstrap --variant=minbase "$SUITE" "$tree.new" "$from"
  echo "deb $from $SUITE main" >"$tree.new/etc/apt/sources.list"
  rm -f "$tree.new/etc/apt/sources.list.d/"*
  chroot "$tree.new" apt-get clean
  echo force-unsafe-io >"$tree.new/etc/dpkg/dpkg.cfg.d/docker-apt-speedup"
  # At this point the tree equals Docker Hub's image debian:$SUITE. Remove containers of an older one when no test uses them.
  flock "$cache/.containers" rm -rf "$cache/containers"
  tar -C "$tree.new" -cf "$cache/base.tar" .
  # Maintainer scripts must not start services.
  printf '#!/bin/sh\nexit 101\n' >"$tree.new/usr/sbin/policy-rc.d"
  chmod 755 "$tree.new/usr/sbin/policy-rc.d"
  cp /etc/resolv.conf "$tree.new/etc/resolv.conf" 2>/dev/null || :
  # shellcheck disable=SC2016 # for the inner shell
  unshare --mount --pid --fork --kill-child sh -ec '
    tree=$1
    shift
    mount --make-rprivate /
    mount -t proc proc "$tree/proc"
    mount -t tmpfs tmpfs "$tree/run"
    export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
    chroot "$tree" apt-get update -q
    chroot "$tree" apt-get install -y -q --no-install-recommends "$@"
    chroot "$tree" apt-get install -y -q --no-install-recommends --download-only linux-image-cloud-amd64
    mkdir -p "$tree/opt/kernel"
    dpkg-deb -x "$tree"/var/cache/apt/archives/linux-image-[0-9]*.deb "$tree/opt/kernel"
    chroot "$tree" apt-get clean
  ' sh "$tree.new" $PACKAGES
  echo "$PACKAGES" >"$tree.new/.kvmnatd-packages"
  mv "$tree.new" "$tree"
}

if [ "${1-}" = build ]; then
  build
  exit
fi

mkdir -p "$cache"
# If two runs start at once, the second waits and finds the tree.
exec 9>"$cache/.lock"
flock 9
if ! up_to_date; then
  echo "Making a tree of Debian $SUITE in $cache (once, a minute or more) ..." >&2
  log=$(mktemp)
  # In a separate shell: in a condition, set -e does not stop a function.
  if ! sh "$0" build >"$log" 2>&1; then
    cat "$log" >&2
    echo "the Debian tree could not be made; see above" >&2
    exit 1
  fi
  rm -f "$log"
fi
echo "$tree"
