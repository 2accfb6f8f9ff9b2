#!/bin/sh
# Entry point of the image: options or a configuration file alone mean the server; root becomes redis.
set -e

if [ "${1#-}" != "$1" ] || [ "${1%.conf}" != "$1" ]; then
	set -- redis-server "$@"
fi

case "$1" in
redis-server | respkv-server | respkv)
	if [ "$(id -u)" = '0' ]; then
		find . \! -user redis -exec chown redis '{}' +
		exec setpriv --reuid=redis --regid=redis --clear-groups "$0" "$@"
	fi
	# Data is for the server's eyes only, unless the mask was set on purpose.
	if [ "$(umask)" = '0022' ]; then
		umask 0077
	fi
	;;
esac

exec "$@"
