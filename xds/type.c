#include "xds/type.h"
#include "xds/proto/authorization.pb-c.h"
#include "xds/proto/secret.pb-c.h"
#include "xds/proto/workload.pb-c.h"
#include <string.h>

#define XDS_TYPE(name, url_, brief_, desc_)                                                        \
	const struct weft_xds_type weft_xds_type_##name = {                                        \
		.url = url_, .brief = brief_, .desc = &(desc_)};
#include "xds/types.def"
#undef XDS_TYPE

const struct weft_xds_type *weft_xds_type_find(const char *url)
{
	static const struct weft_xds_type *const all[] = {
#define XDS_TYPE(name, url_, brief_, desc_) &weft_xds_type_##name,
#include "xds/types.def"
#undef XDS_TYPE
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (!strcmp(all[i]->url, url))
			return all[i];
	return NULL;
}
