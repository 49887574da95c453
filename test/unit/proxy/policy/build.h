/* Messages for tests, made in one arena; a model made of them. */
#pragma once
#include "proxy/core/arena.h"
#include "proxy/policy/authz.h"
#include "proxy/policy/endpoint.h"
#include "proxy/policy/model.h"
#include "xds/proto/authorization.pb-c.h"
#include "xds/proto/workload.pb-c.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NEW(a, type, init) memcpy(weft_arena_alloc(a, sizeof(type)), &(type)init, sizeof(type))
#define ADD(a, list, n, v)                                                                         \
	do {                                                                                       \
		void *grown_ = weft_arena_alloc((a), ((n) + 1) * sizeof((list)[0]));               \
		if (n)                                                                             \
			memcpy(grown_, (list), (n) * sizeof((list)[0]));                           \
		(list) = grown_;                                                                   \
		(list)[(n)++] = (v);                                                               \
	} while (0)

static inline struct weft_ip ip(const char *s)
{
	struct weft_ip r;

	assert_int_equal(weft_ip_parse(s, &r), 0);
	return r;
}

static inline struct weft_sockaddr sa(const char *s)
{
	struct weft_sockaddr r;

	assert_int_equal(weft_sockaddr_parse(s, &r), 0);
	return r;
}

static inline ProtobufCBinaryData ip_bytes(struct weft_arena *a, const char *s)
{
	struct weft_ip r = ip(s);

	return (ProtobufCBinaryData){weft_ip_bytes(&r),
				     weft_arena_memdup(a, r.b, weft_ip_bytes(&r))};
}

static inline Istio__Workload__Workload *workload(struct weft_arena *a, const char *ns,
						  const char *name, const char *addr)
{
	Istio__Workload__Workload *w =
		NEW(a, Istio__Workload__Workload, ISTIO__WORKLOAD__WORKLOAD__INIT);

	w->uid = weft_arena_printf(a, "Kubernetes//Pod/%s/%s", ns, name);
	w->name = weft_arena_strdup(a, name);
	w->namespace_ = weft_arena_strdup(a, ns);
	w->service_account = weft_arena_strdup(a, name);
	if (addr)
		ADD(a, w->addresses, w->n_addresses, ip_bytes(a, addr));
	return w;
}

static inline Istio__Workload__Port *port(struct weft_arena *a, uint32_t from, uint32_t to)
{
	Istio__Workload__Port *p = NEW(a, Istio__Workload__Port, ISTIO__WORKLOAD__PORT__INIT);

	p->has_service_port = p->has_target_port = 1;
	p->service_port = from;
	p->target_port = to;
	return p;
}

/* Makes w an endpoint of key; target 0: no mapping of its own. */
static inline void member(struct weft_arena *a, Istio__Workload__Workload *w, const char *key,
			  uint32_t from, uint32_t to)
{
	Istio__Workload__Workload__ServicesEntry *e =
		NEW(a, Istio__Workload__Workload__ServicesEntry,
		    ISTIO__WORKLOAD__WORKLOAD__SERVICES_ENTRY__INIT);

	e->key = weft_arena_strdup(a, key);
	e->value = NEW(a, Istio__Workload__PortList, ISTIO__WORKLOAD__PORT_LIST__INIT);
	if (to)
		ADD(a, e->value->ports, e->value->n_ports, port(a, from, to));
	ADD(a, w->services, w->n_services, e);
}

static inline Istio__Workload__Service *service(struct weft_arena *a, const char *ns,
						const char *host, const char *vip, uint32_t from,
						uint32_t to)
{
	Istio__Workload__Service *s =
		NEW(a, Istio__Workload__Service, ISTIO__WORKLOAD__SERVICE__INIT);

	s->name = weft_arena_strdup(a, host);
	s->namespace_ = weft_arena_strdup(a, ns);
	s->hostname = weft_arena_strdup(a, host);
	if (from)
		ADD(a, s->ports, s->n_ports, port(a, from, to));
	if (vip) {
		Istio__Workload__NetworkAddress *n = NEW(a, Istio__Workload__NetworkAddress,
							 ISTIO__WORKLOAD__NETWORK_ADDRESS__INIT);
		struct weft_cidr c;

		assert_int_equal(weft_cidr_parse(vip, &c), 0);
		n->has_address = 1;
		n->address = (ProtobufCBinaryData){
			weft_ip_bytes(&c.ip), weft_arena_memdup(a, c.ip.b, weft_ip_bytes(&c.ip))};
		n->has_length = 1;
		n->length = c.len;
		ADD(a, s->addresses, s->n_addresses, n);
	}
	return s;
}

static inline struct weft_change set_workload(struct weft_arena *a, Istio__Workload__Workload *w)
{
	Istio__Workload__Address *m =
		NEW(a, Istio__Workload__Address, ISTIO__WORKLOAD__ADDRESS__INIT);

	m->type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_WORKLOAD;
	m->workload = w;
	return (struct weft_change){.kind = WEFT_SET_ADDRESS, .name = w->uid, .msg = m};
}

static inline struct weft_change set_service(struct weft_arena *a, Istio__Workload__Service *s)
{
	Istio__Workload__Address *m =
		NEW(a, Istio__Workload__Address, ISTIO__WORKLOAD__ADDRESS__INIT);

	m->type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE;
	m->service = s;
	return (struct weft_change){
		.kind = WEFT_SET_ADDRESS,
		.name = weft_arena_printf(a, "%s/%s", s->namespace_, s->hostname),
		.msg = m};
}

static inline struct weft_change set_policy(struct weft_arena *a, Istio__Security__Authorization *p)
{
	return (struct weft_change){.kind = WEFT_SET_POLICY,
				    .name = weft_arena_printf(a, "%s/%s", p->namespace_, p->name),
				    .msg = p};
}

static inline struct weft_change del_address(const char *name)
{
	return (struct weft_change){.kind = WEFT_DEL_ADDRESS, .name = name};
}

/* *m := *m + c; a refused change fails the test. */
static inline void apply(struct weft_model **m, struct weft_change *c, size_t n)
{
	struct weft_model *next = weft_model_apply(*m, c, n);
	char text[600];

	for (size_t i = 0; i < n; i++)
		if (c[i].err.code)
			fail_msg("%s: %s", c[i].name, weft_err_text(&c[i].err, text, sizeof(text)));
	weft_model_unref(*m);
	*m = next;
}
