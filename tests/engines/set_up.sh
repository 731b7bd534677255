#!/bin/sh
# set_up.sh DIRECTORY: have Docker, and podman with CRIU, ready for the tests here.
# README.md tells what that is.  Exit 0 if at least one of them is ready.
set -u
[ $# = 1 ] || { echo "usage: set_up.sh DIRECTORY" >&2; exit 2; }
python=$(command -v "${PYTHON:-python3}") && python=$(realpath -s "$python") || { echo "there is no ${PYTHON:-python3}" >&2; exit 1; }
mkdir -p "$1/log" "$1/share/models" "$1/bin" || exit
here=$(cd "$(dirname "$0")" && pwd)
directory=$(cd "$1" && pwd)
cd "$directory" || exit
engines=
: >environment

say() { echo "engines: $*" >&2; }

quietly() { # quietly NAME COMMAND...: its output goes to log/NAME
    log=log/$1; shift
    "$@" >"$log" 2>&1 </dev/null || { say "failed: $* ($directory/$log)"; tail -n 3 "$log" >&2; return 1; }
}

installed() { # installed PACKAGE...: by apt
    DEBIAN_FRONTEND=noninteractive quietly apt apt-get install -y -q --no-install-recommends "$@"
}

# A tree of Debian sid, and a tar of it with llama-server before podman is there.
tree() {
    [ -e sid/.complete ] && return
    [ -d sid ] && { say "$directory/sid is half a tree: remove it"; return 1; }
    quietly debootstrap debootstrap --variant=minbase sid sid http://deb.debian.org/debian || return
    # No package starts anything.
    printf '#!/bin/sh\nexit 101\n' >sid/usr/sbin/policy-rc.d && chmod +x sid/usr/sbin/policy-rc.d
    DEBIAN_FRONTEND=noninteractive quietly llama chroot sid \
        apt-get install -y -q --no-install-recommends llama.cpp-tools || return
    tar -C sid --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' \
        --exclude='./usr/share/doc/*' --exclude='./usr/share/locale/*' -cf share/root.tar . || return
    DEBIAN_FRONTEND=noninteractive quietly podman chroot sid apt-get install -y -q --no-install-recommends \
        podman crun criu libcriu2 netavark nftables iptables iproute2 procps || return
    mkdir -p sid/etc/criu && echo link-remap >sid/etc/criu/crun.conf && touch sid/.complete
}

# A mount namespace whose root is the tree.  A chroot will not do for CRIU, and crun
# wants no second hierarchy of control groups beside the first.
namespace() {
    if [ -e namespace.pid ] && nsenter -t "$(cat namespace.pid)" -m true 2>/dev/null; then return; fi
    unshare -m --propagation private sh -c '
        mount --bind "$1/sid" "$1/sid" && cd "$1/sid" &&
        mount -t proc proc proc && mount --rbind /sys sys && mount --rbind /dev dev || exit
        [ ! -d sys/fs/cgroup/unified ] || umount sys/fs/cgroup/unified
        mount -t tmpfs tmpfs run && mkdir -p run/lock mnt/old ".$1/share" &&
        mount --bind "$1/share" ".$1/share" &&
        pivot_root . mnt/old && umount -l /mnt/old && touch /run/ready && exec sleep infinity
    ' sh "$directory" >log/namespace 2>&1 </dev/null &
    echo $! >namespace.pid
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        nsenter -t "$(cat namespace.pid)" -m test -e /run/ready 2>/dev/null && return
        sleep 0.5
    done
    say "no mount namespace could be made:"; cat log/namespace >&2; return 1
}

unified=/sys/fs/cgroup/unified
podman() {
    command -v nsenter unshare >/dev/null || { say "no podman: util-linux is missing"; return 1; }
    namespace || return
    cat >bin/podman <<WRAPPER
#!/bin/sh
export PODMAN_IGNORE_CGROUPSV1_WARNING=1
# Where there are two hierarchies of control groups, CRIU takes along the group of the one that
# is not crun's, with all that is below: if that is the root, each restore puts the whole tree
# into itself, and there are 150,000 groups after some twenty switches.
[ ! -d $unified ] || { mkdir -p $unified/llmux-engines && echo \$\$ >$unified/llmux-engines/cgroup.procs; }
exec nsenter -t $(cat namespace.pid) -m /usr/bin/podman "\$@"
WRAPPER
    chmod +x bin/podman
    quietly podman-import bin/podman import "$directory/share/root.tar" llmux-engine || return
    engines="$engines podman"
}

docker() {
    if ! command -v dockerd >/dev/null; then installed docker.io containerd runc || return; fi
    socket=unix://$directory/docker/docker.sock
    mkdir -p docker
    if ! DOCKER_HOST=$socket command docker info >/dev/null 2>&1; then
        dockerd -H "$socket" --data-root "$directory/docker/data" --exec-root "$directory/docker/run" \
            --pidfile "$directory/docker/dockerd.pid" >log/dockerd 2>&1 </dev/null &
        for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
            DOCKER_HOST=$socket command docker info >/dev/null 2>&1 && break
            sleep 0.5
        done
    fi
    DOCKER_HOST=$socket quietly docker-import docker_client import "$directory/share/root.tar" llmux-engine || return
    echo "export DOCKER_HOST='$socket'" >>environment
    engines="$engines docker"
}
docker_client() { command docker "$@"; }

[ "$(id -u)" = 0 ] || { say "nothing is set up: root is needed, for apt and for containers"; exit 1; }
command -v apt-get >/dev/null || { say "nothing is set up: this is no Debian (apt-get is missing)"; exit 1; }
"$python" - "$directory/share/models" <<'PYTHON' || { say "nothing is set up: the demo's models are missing"; exit 1; }
import shutil, sys
from pathlib import Path
from llmux.demo.models import MODELS, gguf_of

there = Path(sys.argv[1])
for model in MODELS.values():
    file = gguf_of(model, there)
    if not (there / model.filename).exists():
        shutil.copy(file, there)
PYTHON
quietly update apt-get update -q || exit
command -v debootstrap >/dev/null || installed debootstrap || exit
tree || exit
podman || say "podman with CRIU is not ready"
docker || say "Docker is not ready"
[ -n "$engines" ] || exit 1
cat >>environment <<ENVIRONMENT
export ENGINES='${engines# }'
export ENGINE_IMAGE=llmux-engine
export ENGINE_MODELS='$directory/share/models'
export PATH='$directory/bin':"\$PATH"
ENVIRONMENT
say "ready:$engines"
