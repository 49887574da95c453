#!/usr/bin/env bash
# Files above 900 lines are told (a review question), above 1,200 refused; so is a makefile above 250.
set -u
cd "$(dirname "$0")/../.." || exit 1
git ls-files '*.[ch]' '*.sh' '*.py' Makefile | xargs awk '
	function look(file, n) {
		if (file == "Makefile" && n > 250) { printf "%s: %d lines: at most 250\n", file, n; bad = 1 }
		else if (n > 1200) { printf "%s: %d lines: split it\n", file, n; bad = 1 }
		else if (n > 900) printf "%s: %d lines: is this one file?\n", file, n
	}
	FNR == 1 && NR > 1 { look(last, lines) }
	{ last = FILENAME; lines = FNR }
	END { look(last, lines); exit bad }'
