#include "proxy/node/broker_msg.h"

#include "proxy/core/log.h"

#include <errno.h>
#include <string.h>

static void send_to_agent(struct weft_broker_link *l, const Weft__Broker__ToAgent *m, int fd)
{
	uint8_t buf[WEFT_BROKER_MSG_MAX];
	size_t n = weft__broker__to_agent__get_packed_size(m);

	if (n > sizeof(buf)) {
		weft_log(WEFT_LOG_ERROR, "broker: a message of %zu bytes is not sent", n);
		return;
	}
	weft__broker__to_agent__pack(m, buf);
	weft_broker_link_send(l, buf, n, fd);
}

void weft_broker_send_ack(struct weft_broker_link *l, const char *uid, const struct weft_err *why)
{
	Weft__Broker__ToAgent m = WEFT__BROKER__TO_AGENT__INIT;
	Weft__Broker__Ack ack = WEFT__BROKER__ACK__INIT;
	char text[512];

	ack.uid = (char *)uid;
	if (why && why->code)
		ack.error = (char *)weft_err_text(why, text, sizeof(text));
	m.m_case = WEFT__BROKER__TO_AGENT__M_ACK;
	m.ack = &ack;
	send_to_agent(l, &m, -1);
}

void weft_broker_send_hello(struct weft_broker_link *l, const char *proxy_version)
{
	Weft__Broker__ToAgent m = WEFT__BROKER__TO_AGENT__INIT;
	Weft__Broker__Hello hello = WEFT__BROKER__HELLO__INIT;

	hello.has_version = true;
	hello.version = WEFT_BROKER_VERSION;
	hello.proxy_version = (char *)proxy_version;
	m.m_case = WEFT__BROKER__TO_AGENT__M_HELLO;
	m.hello = &hello;
	send_to_agent(l, &m, -1);
}

void weft_broker_send_holding(struct weft_broker_link *l, const char *uid, int kind, int fd)
{
	Weft__Broker__ToAgent m = WEFT__BROKER__TO_AGENT__INIT;
	Weft__Broker__Holding h = WEFT__BROKER__HOLDING__INIT;

	h.pod_uid = (char *)uid;
	h.has_kind = true;
	h.kind = (Weft__Broker__SocketKind)kind;
	m.m_case = WEFT__BROKER__TO_AGENT__M_HOLDING;
	m.holding = &h;
	send_to_agent(l, &m, fd);
}

void weft_broker_send_held(struct weft_broker_link *l)
{
	Weft__Broker__ToAgent m = WEFT__BROKER__TO_AGENT__INIT;
	Weft__Broker__Holding h = WEFT__BROKER__HOLDING__INIT;

	h.has_done = true;
	h.done = true;
	m.m_case = WEFT__BROKER__TO_AGENT__M_HOLDING;
	m.holding = &h;
	send_to_agent(l, &m, -1);
}

void weft_broker_send_want(struct weft_broker_link *l, const char *uid, enum weft_sock_kind k,
			   unsigned count)
{
	Weft__Broker__ToAgent m = WEFT__BROKER__TO_AGENT__INIT;
	Weft__Broker__Want want = WEFT__BROKER__WANT__INIT;

	want.pod_uid = (char *)uid;
	want.has_kind = true;
	want.kind = (Weft__Broker__SocketKind)k;
	want.has_count = true;
	want.count = count;
	m.m_case = WEFT__BROKER__TO_AGENT__M_WANT;
	m.want = &want;
	send_to_agent(l, &m, -1);
}

bool weft_broker_name_ok(const char *s)
{
	return s && s[0] && strlen(s) <= WEFT_BROKER_NAME_MAX;
}

static int check_kinds(const Weft__Broker__PodAdd *m, size_t n_fds, struct weft_err *reterr)
{
	unsigned seen = 0;

	if (m->n_kinds != n_fds)
		return weft_fail(reterr, NULL, EPROTO, "kinds: %zu with %zu descriptors",
				 m->n_kinds, n_fds);
	for (size_t i = 0; i < m->n_kinds; i++) {
		int k = (int)m->kinds[i];

		if (k < 1 || k > WEFT_LISTEN_KINDS || (seen & 1u << k))
			return weft_fail(reterr, NULL, EPROTO,
					 "kinds[%zu]: must be a listener's, once; is %d", i, k);
		seen |= 1u << k;
	}
	return 0;
}

int weft_broker_check_pod(const Weft__Broker__PodAdd *m, size_t n_fds, const char *network,
			  struct weft_npod_conf *ret, struct weft_err *reterr)
{
	int err = check_kinds(m, n_fds, reterr);

	if (err)
		return err;
	if (!weft_broker_name_ok(m->uid) || !weft_broker_name_ok(m->name) ||
	    !weft_broker_name_ok(m->namespace_) || !weft_broker_name_ok(m->service_account) ||
	    !weft_broker_name_ok(m->trust_domain))
		return weft_fail(reterr, NULL, EPROTO,
				 "uid, name, namespace, service_account and trust_domain must have "
				 "1..%d bytes",
				 WEFT_BROKER_NAME_MAX);
	if (m->n_addresses > sizeof(ret->addrs) / sizeof(ret->addrs[0]))
		return weft_fail(reterr, NULL, EPROTO, "addresses: at most %zu, are %zu",
				 sizeof(ret->addrs) / sizeof(ret->addrs[0]), m->n_addresses);
	*ret = (struct weft_npod_conf){
		.uid = m->uid,
		.name = m->name,
		.ns = m->namespace_,
		.sa = m->service_account,
		.trust_domain = m->trust_domain,
		.workload_uid = m->workload_uid ? m->workload_uid : "",
		.network = network,
		.n_addrs = m->n_addresses,
	};
	for (size_t i = 0; i < m->n_addresses; i++)
		if (weft_ip_from_bytes(m->addresses[i].data, m->addresses[i].len, &ret->addrs[i]))
			return weft_fail(reterr, NULL, EPROTO,
					 "addresses[%zu]: must have 4 or 16 bytes, has %zu", i,
					 m->addresses[i].len);
	return 0;
}
