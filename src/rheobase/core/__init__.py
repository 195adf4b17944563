"""What everything else uses: errors, seeds, versions, progress, values that are checked."""
