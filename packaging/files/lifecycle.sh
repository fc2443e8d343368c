# Functions for installation, upgrade and removal. The build inserts them into the scripts of every kind of package. The
# script sets $program.

have() { command -v "$1" >/dev/null 2>&1; }
booted() { [ -d /run/systemd/system ]; }
# In a chroot the rules are the host's: they belong to the network, not to the files.
in_chroot() { ! [ /proc/1/root/. -ef /. ]; }

# Debian's wrapper obeys the admin's policy-rc.d.
manage() {
  if have deb-systemd-invoke; then deb-systemd-invoke "$1" kvmnatd.service; else systemctl "$1" kvmnatd.service; fi
}

# Makes systemd read the installed or removed files.
tell_systemd() {
  ! have journalctl || journalctl --update-catalog || :
  ! booted || systemctl daemon-reload || :
}

# Runs after the files are installed. At boot systemd itself runs the steps that are skipped here.
set_up() {
  ! have systemd-sysusers || systemd-sysusers kvmnatd.conf
  ! booted || systemd-tmpfiles --create kvmnatd.conf || :
  tell_systemd
}

# A running daemon leaves its rules to the new one, even with on_stop: remove, so that no connection breaks.
restart_running() {
  booted && systemctl --quiet is-active kvmnatd.service || return 0
  "$program" handover || :
  manage try-restart || :
}

# Runs before the files are removed.
retire() {
  if booted; then manage stop || :; fi
  ! have systemctl || systemctl --quiet --no-reload disable kvmnatd.service || :
  in_chroot || "$program" teardown || echo "kvmnatd: some of its rules may be left; iptables-save shows them" >&2
}

# The lock file outlives its group, and a later group may get the same number.
remove_user() {
  [ ! -e /run/xtables.lock ] || chgrp root /run/xtables.lock
  ! have userdel || ! id kvmnatd >/dev/null 2>&1 || userdel kvmnatd
  rm -rf /run/kvmnatd
}
