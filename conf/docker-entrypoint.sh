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
	# A container's network is its own and clients always come from elsewhere, so the protected mode is off
	# unless it is asked for. Later options win, so it stands before those that were given.
	program="$1"
	shift
	case "${1:-}" in
	-)
		# The sign for standard input counts in the first place only.
		shift
		set -- "$program" - --protected-mode no "$@"
		;;
	'' | -*) set -- "$program" --protected-mode no "$@" ;;
	*)
		if [ -r "$1" ] && ! grep -Eqi '^[[:space:]]*protected-mode[[:space:]]' "$1"; then
			file="$1"
			shift
			set -- "$program" "$file" --protected-mode no "$@"
		else
			set -- "$program" "$@"
		fi
		;;
	esac
	# Data is for the server's eyes only, unless the mask was set on purpose.
	if [ "$(umask)" = '0022' ]; then
		umask 0077
	fi
	;;
esac

exec "$@"
