/* Inside of outlier*.c. */
#pragma once
#include "proxy/upstream/outlier.h"

enum outlier_by { OUTLIER_BY_RUN, OUTLIER_BY_RATE, OUTLIER_BY_FAILURES };
struct outlier_event {
	const char *type; /* as Envoy names it */
	const char *cluster, *host;
	enum outlier_by by;
	bool eject, enforced;
	uint32_t times;		      /* the host was ejected */
	uint64_t last_ns;	      /* when it was ejected (eject: or came back) last; 0: never */
	double rate, mean, threshold; /* 0..100; mean, threshold: OUTLIER_BY_RATE */
};
enum { OUTLIER_LINE = 3072 };
/* With its newline; the length. */
size_t outlier_event_line(const struct outlier_event *e, char dst[OUTLIER_LINE]);
