/* Resources as a foreign control plane may send them, one after another: kind (address, policy,
 * removal of the one before), length in two bytes, message. What is taken must be found again,
 * routed to and asked for without a fault; in the end nothing is left over. */
#include "proxy/policy/authz.h"
#include "proxy/policy/endpoint.h"
#include "proxy/policy/intern.h"
#include "xds/proto/authorization.pb-c.h"
#include "xds/proto/workload.pb-c.h"
#include "xds/wire.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

enum { RESOURCES_MAX = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char *or_empty(const char *s)
{
	return s ? s : "";
}

static const char *name_of(struct weft_arena *a, const ProtobufCMessage *m)
{
	if (m->descriptor == &istio__security__authorization__descriptor) {
		const Istio__Security__Authorization *p = (const Istio__Security__Authorization *)m;

		return weft_arena_printf(a, "%s/%s", or_empty(p->namespace_), or_empty(p->name));
	}
	const Istio__Workload__Address *x = (const Istio__Workload__Address *)m;

	if (x->type_case == ISTIO__WORKLOAD__ADDRESS__TYPE_WORKLOAD)
		return or_empty(x->workload->uid);
	if (x->type_case == ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE)
		return weft_arena_printf(a, "%s/%s", or_empty(x->service->namespace_),
					 or_empty(x->service->hostname));
	return "";
}

struct asker {
	const struct weft_model *m;
	const struct weft_workload *first;
};

static void ask(struct asker *a, const struct weft_workload *src, const struct weft_ip *ip,
		uint16_t port)
{
	struct weft_route_query q = {
		.src = src, .src_ip = *ip, .dst = {*ip, port}, .rand = port * 0x9e3779b97f4a7c15u};
	struct weft_route r;

	weft_route_pick(a->m, &q, &r);
	assert(r.kind == WEFT_ROUTE_REFUSE ? r.reason != WEFT_REASON_OK : r.dial.ip.family != 0);
	assert(r.kind != WEFT_ROUTE_HBONE ||
	       (r.endpoint && r.endpoint->identity && r.authority[0]));
}

static void ask_workload(void *ctx, const struct weft_workload *w)
{
	static const char *const peers[] = {NULL, "spiffe://cluster.local/ns/a/sa/b", "spiffe://x"};
	struct weft_step steps[WEFT_STEPS_MAX];
	struct asker *a = ctx;

	assert(weft_model_workload_by_uid(a->m, w->uid) == w);
	if (!a->first)
		a->first = w;
	for (size_t i = 0; i < w->n_addrs; i++)
		ask(a, a->first, &w->addrs[i], (uint16_t)(80 + i));
	for (int i = 0; i < 3; i++) {
		struct weft_authz_query q = {.dst.port = 80, .peer = peers[i]};
		struct weft_verdict plain, told;

		weft_authz_check(a->m, w, &q, &plain, NULL, 0);
		weft_authz_check(a->m, w, &q, &told, steps, WEFT_STEPS_MAX);
		assert(plain.allow == told.allow && plain.decided == told.decided);
	}
}

static void ask_service(void *ctx, const struct weft_service *s)
{
	struct asker *a = ctx;

	assert(weft_model_service(a->m, s->key) == s);
	for (size_t i = 0; a->first && i < s->n_vips; i++)
		ask(a, a->first, &s->vips[i].cidr.ip, s->n_ports ? s->ports[0].service_port : 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct weft_arena *a = weft_arena_new(0);
	struct weft_model *m = weft_model_empty(""), *next;
	const char *last = "";
	size_t at = 0;

	for (int i = 0; i < RESOURCES_MAX && n - at >= 3; i++) {
		size_t len = (size_t)data[at + 1] << 8 | data[at + 2], rest = n - at - 3;
		const uint8_t *p = data + at + 3;
		bool policy = data[at] & 1, removal = data[at] & 2;
		struct weft_change c = {.name = last, .source = "fuzz:1"};

		len = len < rest ? len : rest;
		at += 3 + len;
		if (removal) {
			c.kind = policy ? WEFT_DEL_POLICY : WEFT_DEL_ADDRESS;
		} else {
			ProtobufCMessage *msg = weft_wire_unpack(
				a,
				policy ? &istio__security__authorization__descriptor
				       : &istio__workload__address__descriptor,
				p, len, false, NULL);

			if (!msg)
				continue;
			last = c.name = name_of(a, msg);
			c.msg = msg;
			c.kind = policy ? WEFT_SET_POLICY : WEFT_SET_ADDRESS;
		}
		next = weft_model_apply(m, &c, 1);
		assert(!c.err.code || c.err.msg[0]);
		weft_model_unref(m);
		m = next;
	}
	struct asker asker = {.m = m};

	weft_model_each(m, ask_workload, ask_service, NULL, &asker);
	weft_model_unref(m);
	weft_arena_free(a);
	assert(weft_intern_count() == 0);
	return 0;
}
