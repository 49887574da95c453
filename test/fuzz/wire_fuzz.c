/* Foreign protobuf bytes: the first byte picks the message and strictness. What passes the check
 * must unpack, and pack again into bytes that pass. */
#include "xds/proto/authorization.pb-c.h"
#include "xds/proto/broker.pb-c.h"
#include "xds/proto/envoy/service/discovery/v3/discovery.pb-c.h"
#include "xds/proto/kube.pb-c.h"
#include "xds/proto/secret.pb-c.h"
#include "xds/proto/workload.pb-c.h"
#include "xds/wire.h"
#include <assert.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const ProtobufCMessageDescriptor *const kinds[] = {
		&istio__workload__address__descriptor,
		&istio__security__authorization__descriptor,
		&envoy__service__discovery__v3__delta_discovery_request__descriptor,
		&envoy__service__discovery__v3__delta_discovery_response__descriptor,
		&envoy__tls__secret__descriptor,
		&weft__broker__to_agent__descriptor,
		&weft__broker__to_proxy__descriptor,
		&weft__kube__peer_authentication__descriptor,
	};
	const ProtobufCMessageDescriptor *d;
	struct weft_err err = {0};
	struct weft_arena *a;
	ProtobufCMessage *m;
	uint8_t *out;
	size_t len;
	int r;

	if (!n)
		return 0;
	d = kinds[data[0] % (sizeof(kinds) / sizeof(kinds[0]))];
	a = weft_arena_new(0);
	r = weft_wire_check(d, data + 1, n - 1, data[0] & 0x80, &err);
	m = weft_wire_unpack(a, d, data + 1, n - 1, data[0] & 0x80, &err);
	assert((r == 0) == (m != NULL));
	if (m) {
		len = protobuf_c_message_get_packed_size(m);
		out = malloc(len ? len : 1);
		assert(out && protobuf_c_message_pack(m, out) == len);
		assert(weft_wire_check(d, out, len, false, NULL) == 0);
		free(out);
	} else {
		assert(err.code > 0 && err.msg[0]);
	}
	weft_arena_free(a);
	return 0;
}
