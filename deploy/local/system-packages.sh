#!/bin/bash
# Installs the Debian packages that tests/system needs. Elsewhere than on Debian as root it installs
# nothing, and the tests whose programs are missing are skipped.
set -euo pipefail

packages=(slurm-wlm munge iproute2 podman runc mmdebstrap redis-server postgresql
    containernetworking-plugins iptables catatonit)
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "system-packages: skipped, it needs apt-get and root"
    exit 0
fi
missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
        missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
echo "system-packages: installing ${missing[*]}"
# None of their services is to run: tests start what they need, in folders and at ports of their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}" >/dev/null
