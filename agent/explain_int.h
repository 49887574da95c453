/* Between explain.c, which finds out, and explain_tell.c, which says it. */
#pragma once
#include "agent/explain.h"
#include "proxy/core/reason.h"
#include "proxy/policy/authz.h"
#include "proxy/policy/endpoint.h"
#include <stdio.h>

enum { EXPLAIN_CHOICES = 32, EXPLAIN_SENTENCE = 900 };

/* Everything found out, before it is told. */
struct explain {
	const struct weft_store *s;
	const struct weft_model *m;
	const char *src_text, *dst_text;
	const struct weft_workload *src; /* NULL: an address nobody here has */
	struct weft_ip src_ip;
	struct weft_sockaddr dst;
	const struct weft_service *svc;	   /* of the destination, or NULL */
	const struct weft_workload *dst_w; /* the destination itself is a workload */
	struct weft_choice choices[EXPLAIN_CHOICES];
	size_t n_choices, all_choices;
	struct weft_route route;
	struct weft_sockaddr target; /* at the endpoint, after resolution */
	bool checked;		     /* an enrolled pod decides, by policy */
	struct weft_verdict v;
	struct weft_step steps[WEFT_STEPS_MAX];
	bool allow;
	enum weft_reason reason;
	char why[EXPLAIN_SENTENCE];
	struct json_t *waypoint; /* the way through it; NULL: none */
	bool edge;		 /* it is a gateway of the edge, which was dialled itself */
};
/* Fills why. */
void explain_say(struct explain *t);
struct json_t *explain_json(const struct explain *t);
char *explain_text(const struct json_t *o); /* malloc'ed; from the JSON, so that nothing is told in
					       one form only */
/* explain_waypoint.c: what the waypoint does with the request; NULL: none of ours on the way. May
 * turn the verdict. */
struct json_t *explain_waypoint(struct explain *t, const struct weft_explain_http *http);
void explain_waypoint_text(FILE *f, const struct json_t *w);
