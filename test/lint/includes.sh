#!/usr/bin/env bash
# Which folder may include which: only downwards. One line for each #include that breaks it.
set -u
cd "$(dirname "$0")/../.." || exit 1
git ls-files --cached --others --exclude-standard 'agent/*.[ch]' 'proxy/*.[ch]' 'xds/*.[ch]' 'bpf/*.[ch]' | xargs awk '
	# the folder a path belongs to
	function folder(path,   v) {
		if (path ~ /^proxy\//) { split(path, v, "/"); return v[2] }
		if (path ~ /^agent\/ctl\//) return "ctl"
		split(path, v, "/")
		return v[1]
	}
	BEGIN {
		may["core"] = " core "
		may["codec"] = may["core"] "codec "
		may["net"] = may["codec"] "net "
		may["session"] = may["net"] "session "
		may["xds"] = may["session"] "xds "
		may["policy"] = may["xds"] "policy "
		may["upstream"] = may["policy"] "upstream "
		may["l4"] = may["upstream"] "l4 "
		may["http"] = may["l4"] "http "
		may["waypoint"] = may["http"] "waypoint "
		may["node"] = may["l4"] "node "
		may["agent"] = may["policy"] "agent bpf "
		may["ctl"] = may["agent"] "ctl " # check and unenroll load and release BPF where no agent runs; not bpf/ itself
		may["bpf"] = " bpf "
	}
	/^[ \t]*#[ \t]*include[ \t]*"/ {
		split($0, q, "\"")
		from = folder(FILENAME); to = folder(q[2])
		if (q[2] !~ /\//) { printf "%s:%d: \"%s\": includes name the full path from the root\n", FILENAME, FNR, q[2]; bad = 1 }
		else if (index(may[from], " " to " ") == 0) {
			printf "%s:%d: %s must not include \"%s\" (%s)\n", FILENAME, FNR, from, q[2], to; bad = 1
		}
	}
	END { exit bad }'
