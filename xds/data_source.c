#include "xds/tls_conf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *from_file(struct weft_cfg *c, const struct weft_path *at, const char *path,
			     const char *what, size_t *ret_n)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	size_t at_byte = 0;
	char *s;

	if (fd < 0 || fstat(fd, &st) < 0) {
		weft_cfg_fail(c, at, "%s: cannot read \"%s\": %s", what, path, strerror(errno));
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	if (!S_ISREG(st.st_mode) || st.st_size > WEFT_DATA_SOURCE_MAX) {
		weft_cfg_fail(c, at, "%s: \"%s\" must be a file of at most %d bytes", what, path,
			      WEFT_DATA_SOURCE_MAX);
		close(fd);
		return NULL;
	}
	s = weft_arena_alloc(c->arena, (size_t)st.st_size + 1);
	while (at_byte < (size_t)st.st_size) {
		ssize_t n = read(fd, s + at_byte, (size_t)st.st_size - at_byte);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break; /* it shrank: what is there counts */
		at_byte += (size_t)n;
	}
	close(fd);
	*ret_n = at_byte;
	return s;
}

static const char *copy(struct weft_cfg *c, const void *p, size_t n, size_t *ret_n)
{
	char *s = weft_arena_alloc(c->arena, n + 1);

	if (n > 0)
		memcpy(s, p, n);
	*ret_n = n;
	return s;
}

static const char *limited(struct weft_cfg *c, const struct weft_path *at, const void *p, size_t n,
			   const char *what, size_t *ret_n)
{
	if (n <= WEFT_DATA_SOURCE_MAX)
		return copy(c, p, n, ret_n);
	weft_cfg_fail(c, at, "%s: must have at most %d bytes, has %zu", what, WEFT_DATA_SOURCE_MAX,
		      n);
	return NULL;
}

const char *weft_data_source(struct weft_cfg *c, const struct weft_path *at,
			     const Envoy__Config__Core__V3__DataSource *d, const char *what,
			     size_t *ret_n)
{
	const struct weft_path file = {at, "filename", -1}, env = {at, "environment_variable", -1};
	const char *v;

	switch (d->specifier_case) {
	case ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_FILENAME:
		if (c->file)
			return from_file(c, &file, d->filename, what, ret_n);
		weft_cfg_fail(c, &file,
			      "%s: only the bootstrap and files of path sources may name files",
			      what);
		return NULL;
	case ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_INLINE_BYTES:
		return limited(c, at, d->inline_bytes.data, d->inline_bytes.len, what, ret_n);
	case ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_INLINE_STRING:
		return limited(c, at, d->inline_string, strlen(d->inline_string), what, ret_n);
	case ENVOY__CONFIG__CORE__V3__DATA_SOURCE__SPECIFIER_ENVIRONMENT_VARIABLE:
		v = c->file ? getenv(d->environment_variable) : NULL;
		if (v)
			return limited(c, &env, v, strlen(v), what, ret_n);
		weft_cfg_fail(c, &env,
			      c->file ? "%s: the environment has no \"%s\""
				      : "%s: only the bootstrap may name environment variables, "
					"names \"%s\"",
			      what, d->environment_variable);
		return NULL;
	default:
		weft_cfg_fail(c, at,
			      "%s: must be filename, inline_bytes, inline_string or "
			      "environment_variable",
			      what);
		return NULL;
	}
}
