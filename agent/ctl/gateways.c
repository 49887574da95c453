/* weftctl status gateways, routes, policies: the conditions that the agent computed. */
#include "agent/ctl/ctl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "True", or "False: Reason message"; "" when there is no such condition. */
static char *condition(const json_t *list, const char *type)
{
	const json_t *c;
	char *text = NULL;
	size_t i;

	json_array_foreach(list, i, c)
	{
		bool is = !strcmp(weft_ctl_str(c, "status"), "True");
		const char *message = weft_ctl_str(c, "message");

		if (strcmp(weft_ctl_str(c, "type"), type) != 0)
			continue;
		if (asprintf(&text, "%s%s%s%s%s", weft_ctl_str(c, "status"), is ? "" : ": ",
			     is ? "" : weft_ctl_str(c, "reason"), *message && !is ? ", " : "",
			     is ? "" : message) < 0)
			abort(); /* memory is out */
		return text;
	}
	text = strdup("");
	return text ? text : (abort(), NULL);
}

static void gateway_rows(struct weft_table *t, const json_t *g)
{
	const json_t *conditions = json_object_get(g, "conditions"), *l;
	char *accepted = condition(conditions, "Accepted"),
	     *programmed = condition(conditions, "Programmed"),
	     *addrs = weft_ctl_join(json_object_get(g, "addresses"), ",");
	char name[400], routes[24];
	size_t i;

	snprintf(name, sizeof(name), "%s/%s", weft_ctl_str(g, "namespace"),
		 weft_ctl_str(g, "name"));
	weft_table_row(t, (const char *const[]){name, weft_ctl_str(g, "class"), addrs, "", "",
						accepted, "", programmed});
	json_array_foreach(json_object_get(g, "listeners"), i, l)
	{
		const json_t *lc = json_object_get(l, "conditions");
		char *a = condition(lc, "Accepted"), *r = condition(lc, "ResolvedRefs"),
		     *p = condition(lc, "Programmed");

		snprintf(routes, sizeof(routes), "%lld", weft_ctl_int(l, "attachedRoutes"));
		weft_table_row(t, (const char *const[]){"", "", "", weft_ctl_str(l, "name"), routes,
							a, r, p});
		free(a);
		free(r);
		free(p);
	}
	free(accepted);
	free(programmed);
	free(addrs);
}

static void route_rows(struct weft_table *t, const json_t *o)
{
	const json_t *p;
	char name[400], parent[600];
	size_t i;

	snprintf(name, sizeof(name), "%s/%s", weft_ctl_str(o, "namespace"),
		 weft_ctl_str(o, "name"));
	json_array_foreach(json_object_get(o, "parents"), i, p)
	{
		const json_t *ref = json_object_get(p, "parentRef"),
			     *list = json_object_get(p, "conditions");
		char *accepted = condition(list, "Accepted"),
		     *resolved = condition(list, "ResolvedRefs"), port[16] = "";

		if (json_object_get(ref, "port"))
			snprintf(port, sizeof(port), ":%lld", weft_ctl_int(ref, "port"));
		snprintf(parent, sizeof(parent), "%s %s/%s%s%s%s", weft_ctl_str(ref, "kind"),
			 weft_ctl_str(ref, "namespace"), weft_ctl_str(ref, "name"),
			 *weft_ctl_str(ref, "sectionName") ? "/" : "",
			 weft_ctl_str(ref, "sectionName"), port);
		weft_table_row(t, (const char *const[]){weft_ctl_str(o, "kind"), name, parent,
							accepted, resolved,
							weft_ctl_str(o, "source")});
		free(accepted);
		free(resolved);
	}
	if (!json_array_size(json_object_get(o, "parents")))
		weft_table_row(t, (const char *const[]){weft_ctl_str(o, "kind"), name, "", "", "",
							weft_ctl_str(o, "source")});
}

static void policy_rows(struct weft_table *t, const json_t *o)
{
	const json_t *p;
	char name[400], ancestor[600];
	size_t i;

	snprintf(name, sizeof(name), "%s/%s", weft_ctl_str(o, "namespace"),
		 weft_ctl_str(o, "name"));
	json_array_foreach(json_object_get(o, "ancestors"), i, p)
	{
		const json_t *ref = json_object_get(p, "ancestorRef"),
			     *list = json_object_get(p, "conditions");
		char *accepted = condition(list, "Accepted"),
		     *resolved = condition(list, "ResolvedRefs");

		snprintf(ancestor, sizeof(ancestor), "%s %s/%s%s%s", weft_ctl_str(ref, "kind"),
			 weft_ctl_str(ref, "namespace"), weft_ctl_str(ref, "name"),
			 *weft_ctl_str(ref, "sectionName") ? "/" : "",
			 weft_ctl_str(ref, "sectionName"));
		weft_table_row(t, (const char *const[]){weft_ctl_str(o, "kind"), name, ancestor,
							accepted, resolved,
							weft_ctl_str(o, "source")});
		free(accepted);
		free(resolved);
	}
	if (!json_array_size(json_object_get(o, "ancestors")))
		weft_table_row(t, (const char *const[]){weft_ctl_str(o, "kind"), name,
							"no Gateway uses it", "", "",
							weft_ctl_str(o, "source")});
}

/* The views of the agent's list: those whose objects have this member, and no other kind. */
static const struct view {
	const char *name, *member, *none;
	void (*rows)(struct weft_table *t, const json_t *o);
	const char *head[8];
} views[] = {
	{"gateways",
	 "listeners",
	 "there is no Gateway",
	 gateway_rows,
	 {"GATEWAY", "CLASS", "ADDRESSES", "LISTENER", "ROUTES", "ACCEPTED", "RESOLVED",
	  "PROGRAMMED"}},
	{"routes",
	 "parents",
	 "there are no routes",
	 route_rows,
	 {"KIND", "ROUTE", "PARENT", "ACCEPTED", "RESOLVED", "OBJECT"}},
	{"policies",
	 "ancestors",
	 "there are no policies with a status",
	 policy_rows,
	 {"KIND", "POLICY", "ANCESTOR", "ACCEPTED", "RESOLVED", "OBJECT"}},
};

int weft_ctl_gateways(struct weft_ctl *c)
{
	const struct view *view = NULL;
	json_t *all, *mine, *o;
	struct weft_table *t;
	size_t i, n = 0;
	int r;

	for (i = 0; i < sizeof(views) / sizeof(views[0]); i++)
		if (c->n_args == 1 && !strcmp(c->args[0], views[i].name))
			view = &views[i];
	if (!view) {
		fprintf(stderr, "weftctl: status [gateways|routes|policies]\n");
		return 2;
	}
	r = weft_ctl_ask(c, "admin.sock", "GET", "/gateways", NULL, &all);
	if (r)
		return r;
	mine = json_array();
	json_array_foreach(all, i, o) if (json_object_get(o, view->member))
		json_array_append(mine, o);
	json_decref(all);
	if (c->json)
		return weft_ctl_json(mine);
	while (n < sizeof(view->head) / sizeof(view->head[0]) && view->head[n])
		n++;
	t = weft_table_new(view->head, n);
	json_array_foreach(mine, i, o) view->rows(t, o);
	if (!json_array_size(mine))
		puts(view->none);
	weft_table_print(t);
	json_decref(mine);
	return 0;
}
