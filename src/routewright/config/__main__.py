"""`python -m routewright.config` prints the JSON Schema of routewright.yaml."""

import json

from routewright.config import json_schema

print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
