#!/bin/bash
# Boots a real systemd as process 1 of new namespaces, over an overlay of a root folder that stays as it is.
#   boot.sh DIR LOWER UPPER   (root)
# DIR: scratch, the same path inside and outside. LOWER: the root folder below. UPPER: what is written goes there, on
# another file system than LOWER; booting twice with the same one is a reboot.
# Runs until the system powers off; killing it ends all.
set -euo pipefail
export DIR=$1 LOWER=$2 UPPER=$3

# The new system's root of control groups: nobody else's process may be in it, or systemd enables no controllers.
GROUPS_AT=/sys/fs/cgroup
[ "$(stat -fc %T $GROUPS_AT)" = cgroup2fs ] || GROUPS_AT=/sys/fs/cgroup/unified
[ -e $GROUPS_AT/cgroup.procs ] || { GROUPS_AT=$DIR/cgroup && mkdir -p "$GROUPS_AT" && mount -t cgroup2 none "$GROUPS_AT"; }
export GROUP=$GROUPS_AT/kvmnatd-boot-$$
mkdir "$GROUP"
echo "$GROUP" >"$DIR/group"
trap 'find "$GROUP" -depth -type d -exec rmdir {} + 2>/dev/null || :' EXIT

# What would touch the machine below, or costs time and proves nothing here.
export MASK="apt-daily.timer apt-daily-upgrade.timer man-db.timer dpkg-db-backup.timer e2scrub_all.timer
  e2scrub_reap.service fstrim.timer logrotate.timer getty@tty1.service console-getty.service systemd-timesyncd.service
  systemd-resolved.service systemd-networkd.service networking.service systemd-logind.service libvirt-guests.service
  unattended-upgrades.service systemd-binfmt.service systemd-sysctl.service systemd-modules-load.service
  systemd-udevd.service systemd-udev-trigger.service systemd-journald-audit.socket sys-kernel-debug.mount
  sys-kernel-tracing.mount sys-fs-fuse-connections.mount dev-hugepages.mount proc-sys-fs-binfmt_misc.automount
  postgresql.service prometheus.service docker.service docker.socket containerd.service firewalld.service ufw.service
  ssh.service nftables.service"

init() {
  mount --make-rprivate /
  mkdir -p "$DIR/root" "$UPPER/up" "$UPPER/work"
  root=$DIR/root
  mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$UPPER/up,workdir=$UPPER/work" "$root"
  # Of /proc/sys only the network's part is ours: the rest belongs to the machine.
  mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
  mkdir -p "$DIR/proc" && mount -t proc proc "$DIR/proc"
  for each in sys sysrq-trigger irq bus acpi; do
    [ ! -e "$root/proc/$each" ] || { mount --bind "$root/proc/$each" "$root/proc/$each" && mount -o remount,bind,ro "$root/proc/$each"; }
  done
  mount --bind "$DIR/proc/sys/net" "$root/proc/sys/net"
  umount -l "$DIR/proc"
  mount -t sysfs -o nosuid,nodev,noexec sysfs "$root/sys"
  mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
  mount -t tmpfs -o mode=755,nosuid dev "$root/dev"
  mkdir -p "$root/dev/pts" "$root/dev/shm" "$root/dev/net" "$root/dev/mqueue"
  for each in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 net/tun:10:200; do
    IFS=: read -r name major minor <<<"$each"
    mknod -m 666 "$root/dev/$name" c "$major" "$minor"
  done
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
  ln -s pts/ptmx "$root/dev/ptmx"
  mount -t tmpfs -o mode=1777,nosuid,nodev shm "$root/dev/shm"
  ln -s /proc/self/fd "$root/dev/fd"
  : >"$root/dev/console"
  mount --bind "$DIR/console" "$root/dev/console"
  mount -t tmpfs -o mode=755,nosuid,nodev run "$root/run"
  mount -t tmpfs -o mode=1777,nosuid,nodev tmp "$root/tmp"
  mkdir -p "$root/run/lock" "$root$DIR"
  mount --bind "$DIR" "$root$DIR"
  echo kvmhost >"$root/etc/hostname"
  hostname kvmhost
  ip link set lo up
  for each in $MASK; do ln -sfn /dev/null "$root/etc/systemd/system/$each"; done
  # The tests write libvirt's network first, and then start libvirtd: it must not read the file half written.
  rm -f "$root/etc/systemd/system/multi-user.target.wants/libvirtd.service"
  rm -f "$root/usr/sbin/policy-rc.d"
  mkdir -p "$root/.old"
  cd "$root"
  pivot_root . .old
  umount -l /.old
  rmdir /.old
  cd /
  exec env -i container=kvmnatd-test PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 /lib/systemd/systemd \
    systemd.unit=multi-user.target systemd.log_target=journal-or-kmsg </dev/null >/dev/console 2>&1
}
export -f init

: >"$DIR/console"
# First into the group, then a namespace of groups that begins there.
unshare --mount --net --ipc --uts --pid --fork --kill-child bash -euc '
  echo 0 >"$GROUP/cgroup.procs"
  exec unshare --cgroup bash -euc init' &
holder=$!
trap 'kill -KILL $holder' TERM
echo $holder >"$DIR/holder"
wait $holder
