"""The HTTP service. Import `api.app:create_app`."""
