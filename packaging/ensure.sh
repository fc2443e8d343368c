#!/bin/sh
# Installs the packages that a command of the README needs.
#   ensure.sh npm             node_modules as package-lock.json says
#   ensure.sh debian demo     Debian packages that the demo needs (as root; other users get a list)
#   ensure.sh debian test     ... that the tests need
#   ensure.sh debian package  ... that `npm run package` needs
set -eu
cd "$(dirname "$0")/.."

# PACKAGE:PROGRAM. The program shows whether the package is installed, also on hosts without dpkg.
DEMO="iptables:iptables iproute2:ip dnsmasq-base:dnsmasq conntrack:conntrack udhcpc:udhcpc
  util-linux:unshare"
PACKAGE="dpkg:dpkg-deb rpm:rpmbuild binutils-x86-64-linux-gnu:x86_64-linux-gnu-strip
  binutils-aarch64-linux-gnu:aarch64-linux-gnu-strip"
TEST="$DEMO $PACKAGE nftables:nft socat:socat libvirt-daemon-system:libvirtd libvirt-clients:virsh
  python3-minimal:python3 procps:ps libcap2-bin:capsh systemd:systemd-analyze zsh:zsh fish:fish debootstrap:debootstrap
  lintian:lintian man-db:man prometheus:promtool tmux:tmux"

ensure_npm() {
  stamp=node_modules/.kvmnatd-lock
  cmp -s package-lock.json "$stamp" && return 0
  echo "Installing npm packages ..." >&2
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  # npm silently omits optional packages (the platforms' binaries) whose `engines` exclude the Node.js that it runs under.
  # They exclude Debian's: then a newer pair of npm and Node.js installs the packages.
  if ! node -e "$FITS"; then
    quietly npm install --prefix "$scratch" --no-save --no-audit --no-fund node@24 npm@11
    PATH=$scratch/node_modules/.bin:$PATH
  fi
  # EBADENGINE warnings do not matter: the installed programs run under the `node` package, a dev dependency.
  quietly npm ci --no-audit --no-fund
  cp package-lock.json "$stamp"
}

FITS='const [major, minor] = process.versions.node.split(".").map(Number);
process.exit(major > 22 || (major === 22 && minor >= 12) || (major === 20 && minor >= 19) ? 0 : 1)'

quietly() { # COMMAND...: its output is shown only if it fails
  "$@" >"$scratch/log" 2>&1 && return 0
  cat "$scratch/log" >&2
  echo "$* failed; see above" >&2
  exit 1
}

is_there() { # PACKAGE:PROGRAM
  PATH=$PATH:/usr/sbin:/sbin command -v "${1#*:}" >/dev/null 2>&1
}

ensure_debian() { # PACKAGE:PROGRAM...
  missing=
  for each in "$@"; do is_there "$each" || missing="$missing ${each%%:*}"; done
  [ -n "$missing" ] || return 0
  if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then
    echo "Missing:$missing" >&2
    echo "Install them (Debian, Ubuntu: sudo apt-get install$missing), then try again." >&2
    exit 1
  fi
  echo "Installing Debian packages:$missing ..." >&2
  log=$(mktemp)
  policy=/usr/sbin/policy-rc.d
  made=
  # The installation must not start libvirt or dnsmasq on this machine.
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    made=1
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM
  fi
  export DEBIAN_FRONTEND=noninteractive
  # shellcheck disable=SC2086 # a list of names
  if ! apt-get install -y -q --no-install-recommends $missing >"$log" 2>&1; then
    # The package lists may be old or missing.
    if ! { apt-get update -q && apt-get install -y -q --no-install-recommends $missing; } >"$log" 2>&1; then
      cat "$log" >&2
      exit 1
    fi
  fi
  rm -f "$log"
  [ -z "$made" ] || { rm -f "$policy"; trap - EXIT INT TERM; }
}

case "${1-} ${2-}" in
  "npm ") ensure_npm ;;
  # shellcheck disable=SC2086 # lists
  "debian demo") ensure_debian $DEMO ;;
  # shellcheck disable=SC2086
  "debian test") ensure_debian $TEST ;;
  # shellcheck disable=SC2086
  "debian package") ensure_debian $PACKAGE ;;
  *)
    sed -n '2,6p' "$0" >&2
    exit 64
    ;;
esac
