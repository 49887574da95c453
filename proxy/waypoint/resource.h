/* Listeners and route tables that come while it runs, seen beside what is there. */
#pragma once
#include "proxy/waypoint/waypoint.h"

/* Clusters that routes name and that nobody knows, and sources that cannot be: as in a bootstrap.
 * must: of tables that do not say validate_clusters. 0, or -EINVAL with errors in c. */
int waypoint_resource_check(struct waypoint *w, struct weft_cfg *c, const ProtobufCMessage *m,
			    bool must);

/* A file of path-based xDS: a DiscoveryResponse, or one resource with its @type. */
bool waypoint_is_resources(const char *path);
int waypoint_resources_validate(struct waypoint *w, struct weft_errs *errs,
				struct weft_errs *warns);
