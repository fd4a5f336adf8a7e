"""The routes of the service: each translates a request into a call of the library, and back."""

from services.recommender.routes import admin, catalog, health, page, recommendations, reports

__all__ = ["ROUTERS"]

ROUTERS = (
    recommendations.router,
    catalog.router,
    reports.router,
    admin.router,
    health.router,
    page.router,
)
"""All routers, in the order of the documentation."""
