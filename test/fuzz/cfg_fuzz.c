/* Resources from a server: the first byte picks the type. What passes the walk over the bytes is
 * checked, and written as text, without harm. */
#include "xds/cfg.h"
#include "xds/wire.h"
#include "xds/yaml.h"
#include <assert.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct weft_errs errs = {0}, warns = {0}, notes = {0};
	const ProtobufCMessageDescriptor *d;
	struct weft_cfg cfg = {.errs = &errs, .warns = &warns, .notes = &notes};
	ProtobufCMessage *m;
	int r;

	if (!n)
		return 0;
	d = weft_cfg_types(data[0], NULL);
	if (!d)
		return 0;
	cfg.arena = weft_arena_new(0);
	m = weft_wire_unpack(cfg.arena, d, data + 1, n - 1, true, NULL);
	if (m) {
		r = weft_cfg_check(&cfg, NULL, m);
		assert((r < 0) == (errs.n > 0));
		free(weft_yaml_encode(m, n & 1));
	}
	weft_arena_free(cfg.arena);
	return 0;
}
