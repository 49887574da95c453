#include "xds/type.h"
#include "xds/proto/authorization.pb-c.h"
#include "xds/proto/envoy/config/cluster/v3/cluster.pb-c.h"
#include "xds/proto/envoy/config/endpoint/v3/endpoint.pb-c.h"
#include "xds/proto/envoy/config/listener/v3/listener.pb-c.h"
#include "xds/proto/envoy/config/route/v3/route.pb-c.h"
#include "xds/proto/envoy/extensions/transport_sockets/tls/v3/secret.pb-c.h"
#include "xds/proto/secret.pb-c.h"
#include "xds/proto/workload.pb-c.h"
#include <string.h>

#define XDS_TYPE(name, url_, brief_, desc_, whole_, service_, noun_)                               \
	const struct weft_xds_type weft_xds_type_##name = {.url = url_,                            \
							   .brief = brief_,                        \
							   .desc = &(desc_),                       \
							   .whole = whole_,                        \
							   .service = service_,                    \
							   .noun = noun_};
#include "xds/types.def"
#undef XDS_TYPE

const struct weft_xds_type *const weft_xds_types[WEFT_XDS_TYPES] = {
#define XDS_TYPE(name, url, brief, desc, whole, service, noun) &weft_xds_type_##name,
#include "xds/types.def"
#undef XDS_TYPE
};

int weft_xds_type_index(const char *url)
{
	for (int i = 0; i < WEFT_XDS_TYPES; i++)
		if (!strcmp(weft_xds_types[i]->url, url))
			return i;
	return -1;
}

const struct weft_xds_type *weft_xds_type_find(const char *url)
{
	int i = weft_xds_type_index(url);

	return i < 0 ? NULL : weft_xds_types[i];
}
