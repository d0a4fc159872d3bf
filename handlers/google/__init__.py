"""Everything that talks to Google."""

import os

# Google's clients read it when they are imported, and log payloads then, refresh tokens among them
# (https://googleapis.dev/python/google-api-core/latest/client_logging.html)
os.environ.pop("GOOGLE_SDK_PYTHON_LOGGING_SCOPE", None)
