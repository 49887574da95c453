# weft: one makefile. `make help` lists the targets; V=1 shows commands; BUILD=debug|release|asan|tsan|cov.
BUILD ?= release
O     ?= build/$(BUILD)
CC    := gcc
CLANG ?= clang-16
V     ?= 0
Q     := $(if $(filter 1,$(V)),,@)
.DELETE_ON_ERROR:
.SECONDARY:
.DEFAULT_GOAL := all
MAKEFLAGS += --no-builtin-rules

PKGS   := libevent libevent_pthreads openssl libnghttp2 libprotobuf-c yaml-0.1 jansson libxxhash libcap-ng libseccomp libbpf
WARN   := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wundef -Wformat=2 -Wno-unused-parameter $(if $(CI),-Werror)
OPT_release := -O2 -g -D_FORTIFY_SOURCE=3
OPT_debug   := -O0 -g -DWEFT_DEBUG
OPT_asan    := -O1 -g -DWEFT_DEBUG -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
OPT_tsan    := -O1 -g -DWEFT_DEBUG -fsanitize=thread
OPT_cov     := -O0 -g --coverage
ifeq ($(OPT_$(BUILD)),)
$(error BUILD=$(BUILD): must be release, debug, asan, tsan or cov)
endif
CFLAGS  := -std=gnu17 -D_GNU_SOURCE -fPIE -fstack-protector-strong $(OPT_$(BUILD)) $(WARN) -I. -I$(O)/gen -I$(O)
LDFLAGS := -pie -Wl,-z,relro,-z,now $(filter -fsanitize=% --coverage,$(OPT_$(BUILD)))
# looked up only when something is compiled, so that `make deps` works on a bare machine
PKG_CFLAGS = $(eval PKG_CFLAGS := $$(shell pkg-config --cflags $(PKGS)))$(PKG_CFLAGS)
PKG_LIBS   = $(eval PKG_LIBS := $$(shell pkg-config --libs $(PKGS)))$(PKG_LIBS)

# ---- what there is: a folder is an archive, found by wildcard; a program is its main.c plus its archives in layer order
FOLDERS   := proxy/core proxy/codec proxy/net xds proxy/policy proxy/l4 proxy/node agent agent/ctl
src        = $(filter-out %/main.c,$(wildcard $(1)/*.c))
PROTOS    := $(wildcard xds/proto/*.proto)
PROTO_C   := $(PROTOS:%.proto=$(O)/gen/%.pb-c.c)
PROTO_H   := $(PROTO_C:.c=.h)
BPF_SRC   := $(wildcard bpf/*.bpf.c)
SKELS     := $(BPF_SRC:%.bpf.c=$(O)/gen/%.skel.h)
ar         = $(O)/$(1)/lib.a
A_NODE    := $(foreach d,proxy/node proxy/l4 proxy/policy xds proxy/net proxy/codec proxy/core,$(call ar,$(d)))
A_AGENT   := $(foreach d,agent proxy/policy xds proxy/net proxy/codec proxy/core,$(call ar,$(d)))
A_CTL     := $(foreach d,agent/ctl proxy/policy xds proxy/net proxy/codec proxy/core,$(call ar,$(d)))
A_TEST    := $(foreach d,agent/ctl agent proxy/node proxy/l4 proxy/policy xds proxy/net proxy/codec proxy/core,$(call ar,$(d)))
PROGRAMS  := $(O)/weft-proxy $(O)/weft-agent $(O)/weftctl
UNIT      := $(patsubst %.c,$(O)/%,$(wildcard test/unit/*/*_test.c test/unit/*/*/*_test.c test/unit/*/*/*/*_test.c))
TOOLS     := $(patsubst %.c,$(O)/%,$(wildcard test/lib/*.c))
FUZZERS   := $(patsubst test/fuzz/%_fuzz.c,%,$(wildcard test/fuzz/*_fuzz.c))

all: $(PROGRAMS) ## build weft-proxy, weft-agent, weftctl
.PHONY: all

STAMP := $(O)/flags.stamp
$(shell mkdir -p $(O) && printf '%s\n' '$(CC) $(CFLAGS) $(LDFLAGS)' | cmp -s - $(STAMP) || printf '%s\n' '$(CC) $(CFLAGS) $(LDFLAGS)' > $(STAMP))

define folder
$(call ar,$(1)): $(patsubst %.c,$(O)/%.o,$(call src,$(1))) $(if $(filter xds,$(1)),$(PROTO_C:.c=.o))
	@mkdir -p $$(@D)
	$(Q)rm -f $$@ && ar rcs $$@ $$^
endef
$(foreach d,$(FOLDERS),$(eval $(call folder,$(d))))

$(O)/weft-proxy: $(O)/proxy/node/main.o $(A_NODE)
$(O)/weft-agent: $(O)/agent/main.o $(A_AGENT)
$(O)/weftctl:    $(O)/agent/ctl/main.o $(A_CTL)
$(PROGRAMS):
	@echo "  LINK  $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(PKG_LIBS) -lpthread

$(O)/%.o: %.c $(STAMP) | $(PROTO_H) $(SKELS)
	@mkdir -p $(@D)
	@echo "  CC    $<"
	$(Q)$(CC) $(CFLAGS) $(PKG_CFLAGS) -MMD -MP -c -o $@ $<
$(O)/gen/%.o: $(O)/gen/%.c $(STAMP) | $(PROTO_H)
	$(Q)$(CC) $(CFLAGS) $(PKG_CFLAGS) -w -MMD -MP -c -o $@ $<
$(O)/gen/%.pb-c.c $(O)/gen/%.pb-c.h: %.proto
	@mkdir -p $(O)/gen
	@echo "  PROTO $<"
	$(Q)protoc-c --c_out=$(O)/gen -I. $<

# BPF: only UAPI headers and CO-RE, never the build machine's BTF. One object a file, one skeleton an object.
$(O)/%.bpf.o: %.bpf.c $(wildcard bpf/*.h) $(STAMP)
	@mkdir -p $(@D)
	@echo "  BPF   $<"
	$(Q)$(CLANG) -target bpf -mcpu=v3 -O2 -g -Wall -Werror -I. -I/usr/include/$(shell uname -m)-linux-gnu -c -o $@ $<
$(O)/gen/%.skel.h: $(O)/%.bpf.o
	@mkdir -p $(@D)
	$(Q)PATH=$$PATH:/usr/sbin bpftool gen skeleton $< name weft_bpf_$(notdir $*) > $@

# ---- tests
$(O)/test/%_test: $(O)/test/%_test.o $(A_TEST)
	@echo "  LINK  $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(A_TEST) -Wl,--end-group $(PKG_LIBS) -lcmocka -lpthread
$(O)/test/lib/%: $(O)/test/lib/%.o $(A_TEST)
	@echo "  LINK  $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $< -Wl,--start-group $(A_TEST) -Wl,--end-group $(PKG_LIBS) -lpthread
unit: $(UNIT) ## build and run the unit tests only
	$(Q)test/run.sh unit $(UNIT)
.PHONY: unit

-include test/test.mk
-include $(shell find $(O) -name '*.d' 2>/dev/null)
