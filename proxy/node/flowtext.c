/* Texts of a flow: most are empty, and a node has many flows, so that each is as long as it is. */
#include "proxy/node/flowtext.h"
#include "proxy/core/arena.h"

#include <stdlib.h>
#include <string.h>

enum { TEXT_MAX = 255 };
static const char none[] = "";

void weft_flow_set(const char **field, const char *value)
{
	size_t n = strnlen(value, TEXT_MAX);
	char *copy;

	if (*field != none)
		free((void *)*field);
	*field = none;
	if (!n)
		return;
	copy = weft_xcalloc(1, n + 1);
	memcpy(copy, value, n);
	*field = copy;
}

void weft_flow_texts_init(struct weft_flow *f)
{
	f->src_id = f->dst_id = f->dst_host = f->trace_id = none;
	f->src_labels_ns = f->src_labels_workload = f->src_labels_app = none;
	f->src_labels_version = f->src_labels_cluster = none;
}

void weft_flow_labels_drop(struct weft_flow *f)
{
	weft_flow_set(&f->src_labels_ns, none);
	weft_flow_set(&f->src_labels_workload, none);
	weft_flow_set(&f->src_labels_app, none);
	weft_flow_set(&f->src_labels_version, none);
	weft_flow_set(&f->src_labels_cluster, none);
}

void weft_flow_texts_done(struct weft_flow *f)
{
	weft_flow_labels_drop(f);
	weft_flow_set(&f->src_id, none);
	weft_flow_set(&f->dst_id, none);
	weft_flow_set(&f->dst_host, none);
	weft_flow_set(&f->trace_id, none);
}
