/* Access loggers of a listener, of tcp_proxy or of the HTTP connection manager. */
#include "proxy/l4/als_priv.h"

#include "xds/proto/envoy/extensions/access_loggers/file/v3/file.pb-c.h"
#include "xds/proto/envoy/extensions/access_loggers/stream/v3/stream.pb-c.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { LOGGERS_MAX = 256 };

/* What Envoy writes where no format is given. */
static const char default_format[] =
	"[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" "
	"%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% "
	"%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" "
	"\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

struct logger {
	const struct weft_access_filter *filter; /* NULL: all */
	const struct weft_format *format;
	struct als_sink *sink; /* NULL: only checked, not opened */
};
struct weft_access_logs {
	size_t n;
	struct logger v[];
};

static bool only_checks;

void weft_access_logs_check_only(void)
{
	only_checks = true;
}

#define FILE_FORMAT(x)                                                                             \
	ENVOY__EXTENSIONS__ACCESS_LOGGERS__FILE__V3__FILE_ACCESS_LOG__ACCESS_LOG_FORMAT_##x

static int file_format(struct weft_cfg *c, const struct weft_path *at,
		       const Envoy__Extensions__AccessLoggers__File__V3__FileAccessLog *m,
		       const struct weft_format **ret)
{
	struct weft_path f = {at, "format", -1}, j = {at, "json_format", -1},
			 t = {at, "typed_json_format", -1}, l = {at, "log_format", -1};

	switch (m->access_log_format_case) {
	case FILE_FORMAT(FORMAT):
		return *m->format ? weft_format_prepare(c, &f, m->format, ret)
				  : weft_format_prepare(c, at, default_format, ret);
	case FILE_FORMAT(JSON_FORMAT):
		return weft_format_prepare_json(c, &j, m->json_format, ret);
	case FILE_FORMAT(TYPED_JSON_FORMAT):
		return weft_format_prepare_json(c, &t, m->typed_json_format, ret);
	case FILE_FORMAT(LOG_FORMAT):
		return weft_format_prepare_msg(c, &l, m->log_format, ret);
	default:
		return weft_format_prepare(c, at, default_format, ret);
	}
}

static int stream_format(struct weft_cfg *c, const struct weft_path *at,
			 const Envoy__Config__Core__V3__SubstitutionFormatString *m,
			 const struct weft_format **ret)
{
	struct weft_path l = {at, "log_format", -1};

	return m ? weft_format_prepare_msg(c, &l, m, ret)
		 : weft_format_prepare(c, at, default_format, ret);
}

/* Format and path of a kind of logger. */
static int kind_prepare(struct weft_cfg *c, const struct weft_path *at, const ProtobufCMessage *m,
			struct logger *to, const char **ret_path)
{
	if (m->descriptor ==
	    &envoy__extensions__access_loggers__file__v3__file_access_log__descriptor) {
		const Envoy__Extensions__AccessLoggers__File__V3__FileAccessLog *f =
			(const void *)m;
		struct weft_path p = {at, "path", -1};

		if (!f->path || !*f->path)
			return weft_cfg_fail(c, &p, "must be set");
		*ret_path = f->path;
		return file_format(c, at, f, &to->format);
	}
	if (m->descriptor ==
	    &envoy__extensions__access_loggers__stream__v3__stdout_access_log__descriptor) {
		const Envoy__Extensions__AccessLoggers__Stream__V3__StdoutAccessLog *f =
			(const void *)m;

		*ret_path = "/dev/stdout";
		return stream_format(c, at, f->log_format, &to->format);
	}
	if (m->descriptor ==
	    &envoy__extensions__access_loggers__stream__v3__stderr_access_log__descriptor) {
		const Envoy__Extensions__AccessLoggers__Stream__V3__StderrAccessLog *f =
			(const void *)m;

		*ret_path = "/dev/stderr";
		return stream_format(c, at, f->log_format, &to->format);
	}
	return weft_cfg_fail(c, at, "%s is not an access logger that is supported",
			     m->descriptor->name);
}

/* What would keep the file from being made; nothing is made. */
static int folder_there(struct weft_cfg *c, const struct weft_path *at, const char *path)
{
	const char *slash = strrchr(path, '/');
	char *folder = slash && slash != path ? strndup(path, (size_t)(slash - path)) : NULL;
	struct stat st;
	int err = 0;

	if (folder && stat(folder, &st) && (errno == ENOENT || errno == ENOTDIR))
		err = weft_cfg_fail(c, at, "%s: cannot be made: the folder %s is not there", path,
				    folder);
	free(folder);
	return err;
}

static int logger_prepare(struct weft_cfg *c, const struct weft_path *at,
			  const Envoy__Config__Accesslog__V3__AccessLog *m, struct logger *to)
{
	struct weft_path pt = {at, "typed_config", -1}, pf = {at, "filter", -1};
	const ProtobufCMessage *any;
	const char *path = NULL;
	struct weft_err err = {0};
	int rc;

	if (m->config_type_case !=
	    ENVOY__CONFIG__ACCESSLOG__V3__ACCESS_LOG__CONFIG_TYPE_TYPED_CONFIG)
		return weft_cfg_fail(c, at, "typed_config must be set (access log \"%s\")",
				     m->name ? m->name : "");
	any = weft_cfg_any(c, &pt, m->typed_config, NULL);
	if (!any)
		return -EINVAL;
	rc = kind_prepare(c, &pt, any, to, &path);
	if (m->filter)
		rc |= weft_access_filter_prepare(c, &pf, m->filter, &to->filter);
	if (rc || only_checks)
		return rc || folder_there(c, &pt, path) ? -EINVAL : 0;
	to->sink = als_sink_get(path, &err);
	if (!to->sink)
		return weft_cfg_fail(c, &pt, "%s", err.msg);
	weft_arena_cleanup(c->arena, als_sink_unref, to->sink);
	return 0;
}

int weft_access_logs_prepare(struct weft_cfg *c, const struct weft_path *at,
			     Envoy__Config__Accesslog__V3__AccessLog *const *v, size_t n,
			     const struct weft_access_logs **ret)
{
	struct weft_access_logs *l;
	size_t i;
	int err = 0;

	*ret = NULL;
	if (!n)
		return 0;
	if (n > LOGGERS_MAX)
		return weft_cfg_fail(c, at, "has %zu access loggers, more than %d", n, LOGGERS_MAX);
	l = weft_arena_alloc(c->arena, sizeof(*l) + n * sizeof(l->v[0]));
	l->n = n;
	for (i = 0; i < n; i++) {
		struct weft_path p = {at->up, at->field, (int)i};

		err |= logger_prepare(c, &p, v[i], &l->v[i]);
	}
	*ret = l;
	return err ? -EINVAL : 0;
}

void weft_access_logs_write(const struct weft_access_logs *l, const struct weft_format_in *in)
{
	size_t i;

	for (i = 0; l && i < l->n; i++)
		if (l->v[i].sink &&
		    (!l->v[i].filter || weft_access_filter_match(l->v[i].filter, in)))
			als_sink_line(l->v[i].sink, l->v[i].format, in);
}
