/* flowlog.c's: the texts of a flow from its init to its close. */
#pragma once
#include "proxy/node/node.h"

void weft_flow_texts_init(struct weft_flow *f);
void weft_flow_labels_drop(
	struct weft_flow *f); /* what the source says of itself, once it is known better */
void weft_flow_texts_done(struct weft_flow *f);
