/* What ends with a worker, on its own thread: what lies in thread-local memory can only be let go
 * there. */
#pragma once
#include "proxy/core/worker.h"

enum { WEFT_WORKER_ENDS = 4 };
/* fn runs on w's thread when its loop has ended, before weft_worker_join returns; the first that
 * was asked for runs first, and each once. After all of them the worker's posts and parts end.
 * Before the thread starts; a worker that gets no thread runs none of them. */
void weft_worker_at_end(struct weft_worker *w, void (*fn)(struct weft_worker *w));
