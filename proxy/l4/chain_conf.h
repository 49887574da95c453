/* Inside of chain*.c only. */
#pragma once
#include "proxy/l4/chain.h"

struct weft_chain_item {
	const struct weft_net_filter *f;
	const void *conf;
	const char *name;
	size_t state; /* offset of its state in the connection's block */
};
struct weft_chain_conf {
	const struct weft_chain_item *v;
	size_t n;
	size_t state_bytes;
};
