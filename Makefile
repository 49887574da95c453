# weft: one makefile. `make help` lists the targets; V=1 shows commands; BUILD=debug|release|asan|tsan|cov|fuzz.
# Missing Debian packages are installed by themselves (test/deps.sh).
BUILD ?= release
O     ?= build/$(BUILD)
CLANG ?= clang-16
CLANG_FORMAT ?= clang-format-16
PREFIX ?= /usr/local
CC    := $(if $(filter fuzz,$(BUILD)),$(CLANG),gcc)
V     ?= 0
Q     := $(if $(filter 1,$(V)),,@)
.DELETE_ON_ERROR:
.SECONDARY:
.DEFAULT_GOAL := all
MAKEFLAGS += --no-builtin-rules
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(shell nproc)
endif

PKGS   := libevent libevent_pthreads openssl libnghttp2 libprotobuf-c yaml-0.1 jansson libxxhash libcap-ng libseccomp libbpf libpcre2-8 libcares jose
WARN   := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wundef -Wformat=2 -Wno-unused-parameter -Wno-deprecated-declarations $(if $(filter gcc,$(CC)),-Wno-dangling-pointer) $(if $(CI),-Werror)
OPT_release := -O2 -g -D_FORTIFY_SOURCE=3
OPT_debug   := -O0 -g -DWEFT_DEBUG
OPT_asan    := -O1 -g -DWEFT_DEBUG -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
OPT_tsan    := -O1 -g -DWEFT_DEBUG -fsanitize=thread
OPT_cov     := -O0 -g --coverage
OPT_fuzz    := -O1 -g -DWEFT_DEBUG -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
ifeq ($(OPT_$(BUILD)),)
$(error BUILD=$(BUILD): must be release, debug, asan, tsan, cov or fuzz)
endif
CFLAGS  := -std=gnu17 -D_GNU_SOURCE -fPIE -fstack-protector-strong $(OPT_$(BUILD)) $(WARN) -I. -I$(O)/gen -I$(O) -I/usr/share/include
LDFLAGS := -pie -Wl,-z,relro,-z,now,--as-needed $(filter -fsanitize=% --coverage,$(OPT_$(BUILD)))
# looked up only when something is compiled, so that `make deps` works on a bare machine
PKG_CFLAGS = $(eval PKG_CFLAGS := $$(shell pkg-config --cflags $(PKGS)))$(PKG_CFLAGS)
PKG_LIBS   = $(eval PKG_LIBS := $$(shell pkg-config --libs $(PKGS)) -lm)$(PKG_LIBS)

# ---- what there is: a folder is an archive, found by wildcard; a program is its main.c plus its archives in layer order
FOLDERS   := proxy/core proxy/codec proxy/net proxy/session xds proxy/policy proxy/upstream proxy/upstream/lb proxy/l4 proxy/l4/filters \
	     proxy/http proxy/http/filters proxy/waypoint proxy/node agent agent/ctl
src        = $(filter-out %/main.c,$(wildcard $(1)/*.c))
PROTOS    := $(shell find xds/proto -name '*.proto')
PROTO_C   := $(PROTOS:%.proto=$(O)/gen/%.pb-c.c)
PROTO_H   := $(PROTO_C:.c=.h)
BPF_SRC   := $(wildcard bpf/*.bpf.c)
SKELS     := $(BPF_SRC:%.bpf.c=$(O)/gen/%.skel.h)
LLHTTP    := $(addprefix $(O)/gen/llhttp/,llhttp.o api.o http.o)# C sources that Debian's node-llhttp ships
ar         = $(O)/$(1)/lib.a
A_NODE    := $(foreach d,proxy/node proxy/l4 proxy/policy xds proxy/session proxy/net proxy/codec proxy/core,$(call ar,$(d)))
A_AGENT   := $(foreach d,agent proxy/policy xds proxy/session proxy/net proxy/codec proxy/core,$(call ar,$(d)))
A_CTL     := $(foreach d,agent/ctl agent proxy/policy xds proxy/session proxy/net proxy/codec proxy/core,$(call ar,$(d)))
A_WAY     := $(foreach d,proxy/waypoint proxy/http proxy/http/filters proxy/l4 proxy/l4/filters proxy/upstream proxy/upstream/lb \
	     proxy/policy xds proxy/session proxy/net proxy/codec proxy/core,$(call ar,$(d)))
A_TEST    := $(sort $(A_CTL) $(A_NODE) $(A_WAY))
PROGRAMS  := $(O)/weft-proxy $(O)/weft-agent $(O)/weftctl $(if $(wildcard proxy/waypoint/main.c),$(O)/weft-waypoint)
UNIT      := $(patsubst %.c,$(O)/%,$(wildcard test/unit/*/*_test.c test/unit/*/*/*_test.c test/unit/*/*/*/*_test.c))
TOOLS     := $(patsubst %.c,$(O)/%,$(wildcard test/lib/*.c))
FUZZERS   := $(patsubst test/fuzz/%_fuzz.c,%,$(wildcard test/fuzz/*_fuzz.c))

all: $(PROGRAMS) ## build weft-proxy, weft-waypoint, weft-agent, weftctl

STAMP := $(O)/flags.stamp
$(shell mkdir -p $(O) && printf '%s\n' '$(CC) $(CFLAGS) $(LDFLAGS)' | cmp -s - $(STAMP) || printf '%s\n' '$(CC) $(CFLAGS) $(LDFLAGS)' > $(STAMP))

# what archives are made of: a source that comes or goes is noticed, however old it is
MEMBERS := $(O)/members.stamp
$(shell printf '%s\n' $(foreach d,$(FOLDERS),$(call src,$(d))) | cmp -s - $(MEMBERS) || printf '%s\n' $(foreach d,$(FOLDERS),$(call src,$(d))) > $(MEMBERS))

define folder
$(call ar,$(1)): $(MEMBERS) $(patsubst %.c,$(O)/%.o,$(call src,$(1))) $(if $(filter xds,$(1)),$(PROTO_C:.c=.o)) $(if $(filter proxy/codec,$(1)),$(LLHTTP))
	@mkdir -p $$(@D)
	$(Q)rm -f $$@ && ar rcs $$@ $$(filter %.o,$$^)
endef
$(foreach d,$(FOLDERS),$(eval $(call folder,$(d))))

$(O)/weft-proxy: $(O)/proxy/node/main.o $(A_NODE)
$(O)/weft-waypoint: $(O)/proxy/waypoint/main.o $(A_WAY)
$(O)/weft-agent: $(O)/agent/main.o $(A_AGENT)
$(O)/weftctl:    $(O)/agent/ctl/main.o $(A_CTL)
$(PROGRAMS):
	@echo "  LINK  $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(PKG_LIBS) -lpthread

$(O)/%.o: %.c $(STAMP) | $(O)/deps.build $(PROTO_H) $(SKELS)
	@mkdir -p $(@D)
	@echo "  CC    $<"
	$(Q)$(CC) $(CFLAGS) $(PKG_CFLAGS) -MMD -MP -c -o $@ $<
$(O)/gen/%.o: $(O)/gen/%.c | $(PROTO_H)
	$(Q)$(CC) -std=gnu17 -fPIE -O1 -w -I$(O)/gen -c -o $@ $<
# no prerequisite of a package's own: on a bare machine it is not there when make looks for a rule
$(LLHTTP): $(STAMP) | $(O)/deps.build
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -O2 -w -I/usr/share/include/llhttp -c -o $@ /usr/share/llhttp/$(@F:.o=.c)
$(O)/gen/%.pb-c.c $(O)/gen/%.pb-c.h: %.proto | $(O)/deps.build
	@mkdir -p $(O)/gen
	$(Q)protoc-c --c_out=$(O)/gen -I. -I/usr/include $<

# which fields are acted on: every area adds a file
$(O)/gen/coverage.inc: $(wildcard xds/coverage/*.def)
	@mkdir -p $(@D)
	$(Q)cat $^ > $@
$(O)/xds/cfg_kind.o: $(O)/gen/coverage.inc

# BPF: only UAPI headers and CO-RE, never the build machine's BTF. One object a file, one skeleton an object.
$(O)/%.bpf.o: %.bpf.c $(wildcard bpf/*.h) $(STAMP) | $(O)/deps.build
	@mkdir -p $(@D)
	@echo "  BPF   $<"
	$(Q)$(CLANG) -target bpf -mcpu=v3 -O2 -g -Wall -Werror -I. -I/usr/include/$(shell uname -m)-linux-gnu -c -o $@ $<
$(O)/gen/%.skel.h: $(O)/%.bpf.o
	@mkdir -p $(@D)
	$(Q)PATH=$$PATH:/usr/sbin bpftool gen skeleton $< name weft_bpf_$(notdir $*) > $@

# ---- packages: looked at once for each list; `make deps` looks again
$(O)/deps.%: test/debian-packages.txt
	@mkdir -p $(@D)
	$(Q)test/deps.sh $*
	@touch $@
deps: ## install the Debian packages that are missing
	$(Q)test/deps.sh build test lint bench

# ---- tests
$(O)/test/unit/%_test: $(O)/test/unit/%_test.o $(A_TEST) | $(O)/deps.test
	@echo "  LINK  $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(A_TEST) -Wl,--end-group $(PKG_LIBS) -lcmocka -lpthread
$(UNIT:=.o): | $(O)/deps.test
$(O)/test/lib/%: $(O)/test/lib/%.o $(A_TEST)
	@echo "  LINK  $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(A_TEST) -Wl,--end-group $(PKG_LIBS) -lpthread
$(O)/test/bench/codec: $(O)/test/bench/codec.o $(call ar,proxy/codec) $(call ar,proxy/core)
	@echo "  LINK  $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(PKG_LIBS)
$(O)/test/bench/session: $(O)/test/bench/session.o $(call ar,proxy/session) $(call ar,proxy/net) $(call ar,proxy/codec) $(call ar,proxy/core)
	@echo "  LINK  $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(PKG_LIBS) -lpthread
$(O)/test/bench/handshake $(O)/test/bench/paced: $(O)/test/bench/%: $(O)/test/bench/%.o
	@echo "  LINK  $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $< -lssl -lcrypto -lpthread
$(O)/test/fuzz/%_replay: $(O)/test/fuzz/%_fuzz.o $(O)/test/fuzz/replay.o $(A_TEST)
	@echo "  LINK  $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(A_TEST) -Wl,--end-group $(PKG_LIBS) -lpthread
$(O)/test/fuzz/%_fuzz: $(O)/test/fuzz/%_fuzz.o $(A_TEST)
	@echo "  LINK  $@"
	$(Q)$(CC) $(LDFLAGS) -fsanitize=fuzzer -o $@ $< -Wl,--start-group $(A_TEST) -Wl,--end-group $(PKG_LIBS) -lpthread

# Release programs for scenarios, ASan+UBSan ones for unit tests, and TSan or release for
# the unit tests that say "also built: tsan". With O=DIR: DIR, DIR-asan, DIR-tsan.
MINE      := $(if $(filter command,$(firstword $(origin O))),$(O))
DIR        = $(if $(MINE),$(MINE)$(if $(filter release,$(1)),,-$(1)),build/$(1))
SUB        = $(MAKE) --no-print-directory BUILD=$(1) O=$(call DIR,$(1))
LOGS      := $(call DIR,release)/test-logs
UNIT_C    := $(patsubst $(O)/%,%.c,$(UNIT))
RUN_UNIT   = $(patsubst %.c,unit:$(call DIR,asan)/%,$(UNIT_C)) $(FUZZERS:%=replay:$(call DIR,asan)/test/fuzz/%_replay) \
	     $(patsubst %.c,unit:$(call DIR,tsan)/%,$(UNIT_TSAN)) $(patsubst %.c,unit:$(call DIR,release)/%,$(UNIT_REL))
UNIT_TSAN  = $(shell grep -l '[*] also built: .*tsan' $(UNIT_C) /dev/null)
UNIT_REL   = $(shell grep -l '[*] also built: .*release' $(UNIT_C) /dev/null)
RUN_GOLD  := $(addprefix golden:,$(filter-out $(if $(wildcard test/golden/*/cmd),,%/files.sh),$(wildcard test/golden/*.sh)))
RUN_SCEN  := $(addprefix scenario:,$(wildcard test/scenario/*/*.sh))
SCEN_BUILD = $(or $(SAN),release)
RUN        = MESH_BIN=$(abspath $(call DIR,$(SCEN_BUILD))) T='$(T)' SAN='$(SAN)' test/run.sh $(LOGS)

unit-programs: $(UNIT) $(FUZZERS:%=$(O)/test/fuzz/%_replay)
tsan-programs: $(UNIT_TSAN:%.c=$(O)/%)
release-programs: $(UNIT_REL:%.c=$(O)/%)
scenario-programs: $(PROGRAMS) $(TOOLS) | $(O)/deps.test
build-unit:
	+$(Q)$(call SUB,asan) unit-programs
	+$(Q)$(if $(UNIT_TSAN),$(call SUB,tsan) tsan-programs)
	+$(Q)$(if $(UNIT_REL),$(call SUB,release) release-programs)
build-scenario:
	+$(Q)$(call SUB,$(SCEN_BUILD)) scenario-programs

test: ## everything: unit and golden tests under ASan+UBSan, scenarios as root; T=REGEX some; SAN=asan scenarios too
	+$(Q)$(call SUB,$(SCEN_BUILD)) scenario-programs
	$(Q)$(MAKE) --no-print-directory build-unit
	$(Q)$(RUN) $(RUN_UNIT) $(RUN_GOLD) $(RUN_SCEN)
unit: build-unit ## unit tests and fuzzers' corpora only
	$(Q)$(RUN) $(RUN_UNIT)
golden: build-scenario ## golden tests only: a file in, a file out
	$(Q)$(RUN) $(RUN_GOLD)
GOLDEN_BY_TEST = xds/golden xds/config_doc xds/coverage_doc xds/fields_bad proxy/codec/h1_golden
golden-update: build-scenario ## write the golden files and the generated pages anew and show what changed
	+$(Q)$(call SUB,asan) $(GOLDEN_BY_TEST:%=$(call DIR,asan)/test/unit/%_test)
	$(Q)cd $(CURDIR) && for t in $(GOLDEN_BY_TEST); do WEFT_GOLDEN_UPDATE=1 $(call DIR,asan)/test/unit/$${t}_test >/dev/null; done; git diff --stat test/golden docs
	$(Q)MESH_BIN=$(abspath $(call DIR,release)) UPDATE=1 test/golden/files.sh
	$(Q)MESH_BIN=$(abspath $(call DIR,release)) UPDATE=1 test/golden/waypoint.sh
scenario: build-scenario ## scenarios only: two nodes with real programs in network namespaces, as root
	$(Q)$(RUN) $(RUN_SCEN)
demo: build-scenario $(O)/deps.bench ## two nodes with nginx, redis, iperf3: captured, encrypted, allowed and denied, then a waypoint; KEEP=1 leaves the nodes
	$(Q)MESH_BIN=$(abspath $(call DIR,release)) KEEP=$(KEEP) test/demo/demo.sh
	$(Q)MESH_BIN=$(abspath $(call DIR,release)) test/demo/waypoint.sh
bench: build-scenario $(O)/deps.bench ## load through weft, without it, and through Envoy; a table
	$(Q)MESH_BIN=$(abspath $(call DIR,release)) test/bench/run.sh
bench-waypoint: $(O)/deps.bench ## weft-waypoint beside Envoy, nginx and HAProxy: one worker each, a table with its targets
	+$(Q)$(call SUB,release) $(addprefix $(call DIR,release)/,weft-waypoint test/bench/handshake test/bench/paced test/lib/ads_serve)
	$(Q)BENCH_BIN=$(abspath $(call DIR,release)) test/bench/waypoint.sh
fuzz: ## libFuzzer: T=NAME one of them, SECS=60 for each
	+$(Q)$(call SUB,fuzz) fuzz-programs T='$(T)'
	$(Q)for t in $(or $(T),$(FUZZERS)); do mkdir -p $(call DIR,fuzz)/corpus/$$t && echo "  FUZZ  $$t" && \
		$(call DIR,fuzz)/test/fuzz/$${t}_fuzz -max_total_time=$(or $(SECS),60) -timeout=10 -print_final_stats=1 \
		-artifact_prefix=$(call DIR,fuzz)/$$t- $(call DIR,fuzz)/corpus/$$t test/fuzz/corpus/$$t || exit 1; done
fuzz-programs: $(patsubst %,$(O)/test/fuzz/%_fuzz,$(or $(T),$(FUZZERS)))

# ---- the rest
# with CI=1 the release build has warnings as errors already
LINTDIR = $(if $(CI),$(call DIR,release),$(call DIR,lint))
C_FILES = $(shell git ls-files '*.[ch]' 2>/dev/null || find agent bpf proxy test xds -name '*.[ch]')
lint: $(O)/deps.lint ## format, include direction, warnings as errors, scripts, spelling; LINT_TIDY=1 clang-tidy too
	$(Q)$(CLANG_FORMAT) --dry-run -Werror $(C_FILES)
	$(Q)test/lint/includes.sh
	$(Q)test/lint/size.sh
	$(Q)test/lint/options.py
	$(Q)docs/gen-reasons.sh --check
	$(Q)shellcheck -x -S warning -e SC1007 $$(git ls-files '*.sh' .ci/run)
	$(Q)codespell -L ans,nd,te,rlse,als,upto,pres,protocal,froms $$(git ls-files | grep -v -e '^test/fuzz/corpus/' -e '^LICENSE')
	$(Q)$(MAKE) --no-print-directory CI=1 BUILD=release O=$(LINTDIR) all $(TOOLS:$(O)/%=$(LINTDIR)/%) \
		$(patsubst $(O)/%,$(LINTDIR)/%.o,$(UNIT))
	$(Q)$(if $(LINT_TIDY),test/lint/tidy.sh $(LINTDIR))
fmt: $(O)/deps.lint ## clang-format on all C files
	$(Q)$(CLANG_FORMAT) -i $(C_FILES)
install: all ## DESTDIR= PREFIX=/usr/local
	install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/doc/weft
	install -m 755 $(O)/weft-proxy $(O)/weft-waypoint $(O)/weft-agent $(DESTDIR)$(PREFIX)/sbin
	install -m 755 $(O)/weftctl $(DESTDIR)$(PREFIX)/bin
	install -m 644 README.md LICENSE $(wildcard docs/*.md) $(DESTDIR)$(PREFIX)/share/doc/weft
	install -m 644 bpf/LICENSE $(DESTDIR)$(PREFIX)/share/doc/weft/LICENSE.bpf
clean: ## remove what was built
	rm -rf build
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12
.PHONY: all deps unit-programs tsan-programs release-programs scenario-programs fuzz-programs build-unit build-scenario test unit golden golden-update scenario \
	demo bench bench-waypoint fuzz lint fmt install clean help

-include $(shell find $(O) -name '*.d' 2>/dev/null)
