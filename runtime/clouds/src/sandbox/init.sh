#!/bin/bash
# Process 1 of a sandbox host. It reaps what others leave behind, and keeps every
# executable in /etc/skysail/services.d running: started when it appears, started
# again when it ends (not more often than once a second).
#   kill -HUP 1    look for new services now
#   kill -TERM 1   power off
ulimit -n "$(ulimit -Hn)" 2>/dev/null
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mkdir -p /run/sshd /run/lock /etc/skysail/services.d /var/log/skysail
trap : HUP
trap 'exit 0' TERM INT
declare -A pid since
# Reading from a pipe that nobody writes to is a sleep that forks nothing and that a signal ends.
rm -f /run/.skysail-never
mkfifo /run/.skysail-never
exec {never}<>/run/.skysail-never
while :; do
    for service in /etc/skysail/services.d/*; do
        [[ -x $service ]] || continue
        name=${service##*/}
        if [[ -n ${pid[$name]} ]] && kill -0 "${pid[$name]}" 2>/dev/null; then continue; fi
        if [[ ${since[$name]} == "$SECONDS" ]]; then continue; fi
        since[$name]=$SECONDS
        setsid "$service" >>"/var/log/skysail/$name.log" 2>&1 </dev/null {never}>&- &
        pid[$name]=$!
    done
    read -r -t 1 -u "$never"
done
