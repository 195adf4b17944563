"""PASCAL's adaptive levels: levels by site from the AL metric (Ramesh & Srinivasan 2025, section 3.4)."""

from rheobase.methods.adaptive_levels.adapt import AdaptedLevels, adapt_levels
from rheobase.methods.adaptive_levels.metric import LevelMetric, Moments, SiteMetric, clusters, level_metric

__all__ = ["AdaptedLevels", "LevelMetric", "Moments", "SiteMetric", "adapt_levels", "clusters", "level_metric"]
