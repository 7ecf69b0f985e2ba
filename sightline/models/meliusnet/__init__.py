"""MeliusNets (Bethge et al., WACV 2021)."""
