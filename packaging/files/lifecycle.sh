# What goes on around an installation, an upgrade and a removal; the build puts these functions into the scripts of
# every kind of package. The script says which $program it is about.

have() { command -v "$1" >/dev/null 2>&1; }
booted() { [ -d /run/systemd/system ]; }
# There the rules, which belong to the network and not to the files, are the host's.
in_chroot() { ! [ /proc/1/root/. -ef /. ]; }

# Debian's wrapper asks the admin's policy-rc.d first.
manage() {
  if have deb-systemd-invoke; then deb-systemd-invoke "$1" kvmnatd.service; else systemctl "$1" kvmnatd.service; fi
}

# systemd learns of files that came, or went.
tell_systemd() {
  ! have journalctl || journalctl --update-catalog || :
  ! booted || systemctl daemon-reload || :
}

# The files are there. At boot systemd itself does what is left out here.
set_up() {
  ! have systemd-sysusers || systemd-sysusers kvmnatd.conf
  ! booted || systemd-tmpfiles --create kvmnatd.conf || :
  tell_systemd
}

# A daemon that runs leaves its rules to the new one, whatever on_stop says: no connection notices.
restart_running() {
  booted && systemctl --quiet is-active kvmnatd.service || return 0
  "$program" handover || :
  manage try-restart || :
}

# Before the files go.
retire() {
  if booted; then manage stop || :; fi
  ! have systemctl || systemctl --quiet --no-reload disable kvmnatd.service || :
  in_chroot || "$program" teardown || echo "kvmnatd: rules of its may be left; iptables-save shows them" >&2
}

# The lock outlives the group that could read it, and a group made later may get its number.
remove_user() {
  [ ! -e /run/xtables.lock ] || chgrp root /run/xtables.lock
  ! have userdel || ! id kvmnatd >/dev/null 2>&1 || userdel kvmnatd
  rm -rf /run/kvmnatd
}
