/* weftctl validate of an Envoy bootstrap: weft-waypoint, which alone knows them, is asked. ADR 9.
 */
#include "agent/ctl/ctl.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HEAD_BYTES = 256 << 10 };

/* A key at the beginning of a line, in YAML, or of the outermost object of JSON. */
static bool has_key(const char *text, const char *key)
{
	size_t n = strlen(key);
	const char *p;

	for (p = strstr(text, key); p; p = strstr(p + 1, key)) {
		bool quoted = p > text && p[-1] == '"' && p[n] == '"';
		const char *before = p - quoted, *after = p + n + quoted;

		after += strspn(after, " \t");
		if (*after != ':')
			continue;
		if (before == text || before[-1] == '\n' || (quoted && *text == '{'))
			return true;
	}
	return false;
}

bool weft_ctl_is_bootstrap(const char *path)
{
	static const char *const keys[] = {"static_resources", "dynamic_resources",
					   "staticResources", "dynamicResources",
					   /* of files that path_config_source names */
					   "resources", "@type"};
	static char text[HEAD_BYTES + 1];
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;
	ssize_t n = -1;
	size_t i;

	if (fd >= 0 && !fstat(fd, &st) && S_ISREG(st.st_mode))
		n = read(fd, text, HEAD_BYTES);
	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return false;
	text[n] = '\0';
	if (has_key(text, "kind"))
		return false;
	for (i = 0; i < sizeof(keys) / sizeof(*keys); i++)
		if (has_key(text, keys[i]))
			return true;
	return false;
}

/* Beside this program, or in the sbin next to its bin. */
static bool find(char *dst, size_t cap)
{
	static const char *const places[] = {"", "/../sbin"};
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	const char *slash;
	size_t i;

	if (n <= 0)
		return false;
	self[n] = '\0';
	slash = strrchr(self, '/');
	for (i = 0; slash && i < sizeof(places) / sizeof(*places); i++) {
		int len = snprintf(dst, cap, "%.*s%s/weft-waypoint", (int)(slash - self), self,
				   places[i]);

		if (len > 0 && (size_t)len < cap && !access(dst, X_OK))
			return true;
	}
	return false;
}

int weft_ctl_bootstrap(const char *path, bool json)
{
	extern char **environ;
	char program[PATH_MAX + 32];
	char *argv[] = {"weft-waypoint",	"--mode", "validate",	"-o",
			json ? "json" : "text", "-c",	  (char *)path, NULL};
	int err, status;
	pid_t pid;

	if (!find(program, sizeof(program))) {
		fprintf(stderr,
			"weftctl: %s: an Envoy bootstrap; weft-waypoint, which reads those, is not "
			"beside weftctl\n",
			path);
		return 2;
	}
	fflush(stdout);
	err = posix_spawn(&pid, program, NULL, NULL, argv, environ);
	if (err) {
		fprintf(stderr, "weftctl: %s: %s\n", program, strerror(err));
		return 2;
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return 2;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 2;
}
